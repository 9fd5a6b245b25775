// Package nbd serves block devices to clients that speak the NBD protocol: the Linux kernel, qemu, libnbd, fio.
//
// It knows nothing of replication or quorum. What it serves is a [Device], reached through an [Exports] directory. What
// of the protocol it supports, message by message, is listed in docs/NBD.md.
//
// # A connection
//
//	accept -> negotiation (options, STARTTLS) -> transmission (commands) -> drain -> closed
//
//	           socket                                                socket
//	             |  inbox (256 KiB)                                    ^
//	             v                                                     |  one write for many replies
//	       transmission.run --submit--> Device                      stream
//	             |   validates, charges,    |                          ^
//	             |   reads the payload      +--request.Complete--------+
//	             +--refusals---------------------------------------^
//
// The goroutine that reads a connection submits its requests inline; the device completes each with
// [Completion.Complete], before the submitting call returns or later, from any goroutine and in any order. There is no
// goroutine, channel or allocation per request (BLOCK_STATUS excepted, which may block and is rare).
//
// # Bursts
//
// Whatever one read of the socket brought is one burst. Replies (and whatever else a device defers to the [Batch], such
// as frames for its peers) are queued while the burst lasts and sent together when it ends, which is always before the
// reader may block: on the socket, or on memory.
//
// # Bounds
//
// A request is charged for its payload before the payload is read, until its reply has left. A connection has a share
// of its own; what it needs beyond that comes out of a reserve that all share, in order of arrival. A connection without
// memory is not read: that is the back-pressure. A client that neither takes its replies nor sends the payload that
// it announced is cut off after a while, and sooner when others wait for the reserve that it sits on.
//
// # Goroutines
//
// The server has one housekeeper. A connection has two readers (transmission.readLoop) that take turns, so that a large
// payload can be copied into the device while the next one is read; a writer that only works when an inline
// send could not finish (stream.writeLoop), one that waits for the export's revocation when it can be revoked, and one
// per BLOCK_STATUS in progress (at most four).
package nbd
