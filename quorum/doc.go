// Package quorum holds what the cluster has agreed on: the committed record of every resource, and the Raft group
// that commits it. It decides who is Primary and who is in sync. It knows nothing of blocks, sockets of clients or
// disks of data: writes never pass through here.
//
//	      Propose(Command)                    State(), Changed()
//	            |                                    ^
//	            v                                    |
//	  leader? --no--> forward.go: to the leader,     |   published, immutable
//	    |             through any voter              |
//	    yes                                        fsm.go
//	    v                                            ^
//	raft log (store.go, deadline.go)                 |
//	    |  committed on a majority                   |
//	    +-----------> apply.go: State x Command -> State, Outcome   (pure)
//
// # What callers rely on
//
//   - Every accepted change of a resource raises its Generation by exactly one, and every command that touches a
//     resource names the Generation it was made for. Of two racing commands one wins and the other gets ErrStale, so
//     a duplicate or late command does no harm.
//   - Authority belongs to an incarnation of a process. State says who may act; that a node finds its own name there
//     while it replays history gives it nothing. Call Barrier before acting on State after a start.
//   - A Result carries the record as the command left it. The proposer acts on that; its own State follows later.
//   - ErrUnknownOutcome means what it says: the command may be committed now, later or never. Read the record (Read)
//     and decide again.
//
// # Not here
//
// Leases, suspicion and automatic promotion. docs/QUORUM.md maps each rule of the promotion protocol to the function
// that enforces it, and says which ones this version does not have.
//
// # Files
//
// state.go, command.go, apply*.go and snapshot.go are pure: no time, no randomness, no I/O. fsm.go joins them to
// Raft. node.go, propose.go, membership.go and status.go are the public surface. forward.go, serve.go and frame.go
// carry commands between nodes; stream.go carries Raft. store.go and deadline.go keep the log.
package quorum
