// Command duet is a network RAID-1: the daemon of a node, and everything an operator says to it.
//
// Each command is in a file of its own, cmd_COMMAND.go, and does no more than read its arguments, ask the daemon
// through package control, and print. What it prints for people is made by the pure functions of the render files, so
// that golden files can hold it. `duet demo` is the exception: it is a program of its own, in the demo files.
//
// Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not reachable, 4 waited too long.
package main
