// Package sim runs whole clusters in one process under virtual time: the real quorum (hashicorp/raft included),
// replication, bitmap and NBD code on simulated disks, a simulated network and simulated machines, with faults drawn from
// a seed. What clients saw is recorded and checked afterwards.
//
// # Fault model
//
// A process can be killed at any moment: what it wrote stays in its machine's page cache, what it was about to do is done
// or not. A machine can lose power: of the writes that no sync covered, each 512-byte sector is lost or kept on its own,
// and overlapping writes may be kept in any order. What a sync that returned covers is kept. Its peers hear nothing more from it until
// it is back. Machines may lose power one at a time or all at once.
//
// The network delays; it keeps the order within a connection, but not between connections; it loses connections; it stops to
// deliver in one direction or both, for a while, between any two machines. What was stopped is delivered when the cut
// heals, unless the connection was given up before: this is how TCP behaves.
//
// Disks are slow at times, hang for a while, are full, and fail to read, to write or to flush. The store of the quorum keeps
// what it acknowledged; how far the real one deserves that is shown elsewhere (docs/TESTING.md, crash exploration).
//
// Every history has at least one killed process, one machine without power and one cut, at moments that its seed draws.
//
// The clocks that read leases go by have each their own zero, and run up to a hundredth too fast or too slow. A clock that is
// set, forwards or back, is no fault here: nothing goes by the time of day but what is shown to people.
//
// # What a seed fixes
//
// A seed fixes the faults, their times and the load. It does not fix the order in which runnable goroutines run: a
// failure may need several runs of its seed to show again.
package sim
