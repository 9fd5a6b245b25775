package replication

import (
	"errors"
	"fmt"
	"syscall"
)

// Errors that callers tell apart. Every returned error wraps at most one of them and says in words what to do.
var (
	// errRemoved ends a session that was a member's.
	errRemoved = errors.New("it was taken out of the in-sync set")
	// ErrNotPrimary: the node does not serve this resource. NBD clients see ESHUTDOWN.
	ErrNotPrimary = fmt.Errorf("this node is not Primary: %w", syscall.ESHUTDOWN)
	// ErrFenced: another node took the role, or this node's authority ended; requests in flight are never answered.
	ErrFenced = errors.New("fenced: this node's authority over the resource has ended")
	// ErrClosed: the resource is shutting down.
	ErrClosed = errors.New("the resource is closed on this node")
	// ErrDiskFailed: the last in-sync disk failed; its writes and flushes fail from then on.
	ErrDiskFailed = fmt.Errorf("the disk failed and no other in-sync replica exists: %w", syscall.EIO)
	// ErrRefused: the operation is not allowed in the present state.
	ErrRefused = errors.New("refused")

	// ErrStale is returned by an Arbiter when the generation has moved on since the proposal was made.
	ErrStale = errors.New("the generation has moved on")
	// ErrRejected is returned by an Arbiter when the committed record refuses the proposal for good.
	ErrRejected = errors.New("rejected by the committed record")
	// ErrNoMajority is returned by an Arbiter when the proposal was certainly not made: nobody could be reached who decides.
	ErrNoMajority = errors.New("no majority of the voters can be reached")
)

// errSessionReplaced ends a session whose peer has opened a newer one.
var errSessionReplaced = errors.New("replaced by a newer session of the peer")

// errGoodbye ends a session that the peer or this node left in good order.
var errGoodbye = errors.New("left in good order")
