// Package replication keeps one block device identical on several nodes.
//
// A Resource plays this node's part in the committed configuration: it connects to peers (link.go, session.go), adopts
// generations (resource.go), and as Primary removes, adds and resyncs peers (primary.go, source.go, resync.go). Its Volume
// is the write path (volume.go, local.go, barrier.go) and, on a Secondary, the apply path (receive.go).
//
//	client -> Volume.Write -> gate -> range lock -> activity log -> transfer log -+-> local disk
//	                                                                              +-> Data frame to each leg
//	                          reply <- last leg counts down <- WriteAck ----------+
//
// Invariants:
//   - A request is acknowledged only when every in-sync replica and every replica being added has it.
//   - A lost member is removed by a commit, and its missing ranges are bits, before any write is acknowledged without it.
//   - Where two replicas may differ in a block, a bit, a hot extent or a range of the transfer log says so on a node that
//     can be source.
//   - A generation is promised durably before anything of it is served, and nothing older is accepted afterwards.
package replication
