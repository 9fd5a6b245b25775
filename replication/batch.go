package replication

import "sync/atomic"

// Flusher sends what was queued on a stream.
type Flusher = interface{ Flush() }

// Batch collects what should be sent once, at the end of a burst of work. More reports whether another request follows
// at once.
type Batch = interface {
	Defer(f interface{ Flush() })
	More() bool
}

// Completion finishes a request of a client: exactly once, from any goroutine. With a nil Batch the reply is sent at
// once; else it is queued and goes out at the end of the burst.
type Completion = interface {
	Complete(b interface {
		Defer(f interface{ Flush() })
		More() bool
	}, err error)
}

// burst is the Batch of a loop of this package: it remembers the distinct streams that were written to.
type burst struct {
	streams  []Flusher
	more     bool
	stuck    chan struct{} // closed by Stuck; nil: the loop does nothing that may not return
	relieved atomic.Bool
}

// Stuck lets who waits for the loop go on without it: it is in an operation on a disk that does not return. The session
// has ended by then, or is about to.
func (b *burst) Stuck() {
	b.relieved.Store(true)
	close(b.stuck)
}

// Defer remembers f for the end of the burst.
func (b *burst) Defer(f interface{ Flush() }) {
	for _, known := range b.streams {
		if known == f {
			return
		}
	}
	b.streams = append(b.streams, f)
}

// More reports whether the loop has further input at hand.
func (b *burst) More() bool { return b.more }

// end sends everything that was deferred.
func (b *burst) end() {
	for i, f := range b.streams {
		f.Flush()
		b.streams[i] = nil
	}
	b.streams = b.streams[:0]
}

// flushOrDefer sends f's queue now, or at the end of the burst when one is on and more requests follow.
func flushOrDefer(b Batch, f Flusher) {
	if b != nil && b.More() {
		b.Defer(f)
		return
	}
	f.Flush()
}
