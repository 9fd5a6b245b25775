// Package supervisor is the process beside a node's daemon that sees the daemon's process end and certifies so to the other
// nodes, which then need not wait for leases; docs/SUPERVISOR.md says what it promises and how it speaks.
//
// Three processes use it: the supervisor itself (Run), the daemon that is watched (Keeper), and the daemons of the other
// nodes, which take certificates (Receive).
//
// # Structure
//
// What was seen and what is owed to whom is a ledger: pure, told the time. Around it, in the supervisor:
//
//	sentry     one per process that is watched: waits for its end
//	link       one per other node: keeps a connection warm, sends what is owed
//	desk       accepts daemons on the unix socket; each has a goroutine
//	Run        ticks: ends the process when nothing keeps it
//
// All of them work on one Supervisor, under its mutex, which is never held across I/O. Nothing between a process's end
// and the sending of its certificate touches a file: the disk may be what killed the daemon. The log is written by a
// goroutine of its own.
package supervisor
