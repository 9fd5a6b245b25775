package nbd

import (
	"sync/atomic"

	"duet/nbd/internal/wire"
)

// burst is the Batch of a connection's reader: whatever one read of the socket brought. It ends before the reader may
// block, so nothing that was deferred waits for the client's next request.
type burst struct {
	in       *inbox // nil if this is not the batch of who reads
	own      *stream
	ownQueue bool // own has replies to send
	others   []Flusher

	relieve  func(b *burst) // lets another goroutine take the place of the one whose batch this is
	relieved atomic.Bool
}

// Stuck says that the goroutine whose batch this is will not come back soon from the device, which has gone on without it:
// another one sends what was deferred and reads on. When the goroutine returns it ends, and touches nothing. Stuck doesn't
// block.
func (b *burst) Stuck() {
	b.relieved.Store(true)
	b.relieve(b)
}

// Defer remembers f, once, to be flushed when the burst ends.
func (b *burst) Defer(f interface{ Flush() }) {
	if f == Flusher(b.own) {
		b.ownQueue = true
		return
	}
	for _, known := range b.others {
		if known == f {
			return
		}
	}
	b.others = append(b.others, f)
}

// More reports whether the header of a further request has been read already.
func (b *burst) More() bool { return b.in != nil && b.in.buffered() >= wire.RequestBytes }

// end flushes what was deferred. The others go first: they carry work to peers, which takes time, while the replies are
// for a client whose next request needs this goroutine.
func (b *burst) end() {
	for i, f := range b.others {
		f.Flush()
		b.others[i] = nil
	}
	b.others = b.others[:0]
	if b.ownQueue {
		b.ownQueue = false
		b.own.flushFromReader()
	}
}
