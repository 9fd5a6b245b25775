// Package register judges what clients saw of one block: whether a register can have answered so, that is whether there is an
// order of all accesses that respects real time and explains every read (linearizability), where a write that nobody
// answered may have happened or not, and, when it is known until when at the latest, not after that (strict linearizability).
package register
