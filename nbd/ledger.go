package nbd

import (
	"sync"
	"sync/atomic"
)

// minChargeBytes is charged for a request without a payload: far more than it occupies here, but the device has
// bookkeeping of its own for it, and so the number of requests in flight is bounded too.
const minChargeBytes = 4096

// reserve is the memory that connections share beyond what each has to itself. Those that wait get it in order of
// arrival, so that a large request is not starved by small ones.
type reserve struct {
	mu        sync.Mutex
	freeBytes int64
	queue     []*claim
}

// claim is a place in the queue for the reserve.
type claim struct {
	bytes   int64
	granted chan struct{} // closed when the bytes are the claimant's
}

// take gets bytes at once or not at all. It does not overtake those that wait.
func (r *reserve) take(bytes int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) > 0 || r.freeBytes < bytes {
		return false
	}
	r.freeBytes -= bytes
	return true
}

// enqueue queues for bytes.
func (r *reserve) enqueue(bytes int64) *claim {
	c := &claim{bytes: bytes, granted: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue, c)
	r.grant()
	return c
}

// withdraw leaves the queue. It returns false if the claim was granted before that.
func (r *reserve) withdraw(c *claim) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, queued := range r.queue {
		if queued == c {
			r.queue = append(r.queue[:i], r.queue[i+1:]...)
			r.grant()
			return true
		}
	}
	return false
}

// give returns bytes.
func (r *reserve) give(bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.freeBytes += bytes
	r.grant()
}

// grant serves the queue as far as the bytes go. The caller holds mu.
func (r *reserve) grant() {
	for len(r.queue) > 0 && r.queue[0].bytes <= r.freeBytes {
		r.freeBytes -= r.queue[0].bytes
		close(r.queue[0].granted)
		r.queue = r.queue[1:]
	}
}

// contended reports whether somebody waits.
func (r *reserve) contended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue) > 0
}

// charge is memory that a request occupies: either of its connection's own share or of the reserve.
type charge struct{ ownBytes, sharedBytes int64 }

// ledger is the account of one connection. Only its reader charges, which is why looking and then adding is sound;
// refunds come from anywhere.
type ledger struct {
	reserve     *reserve
	ownLimit    int64
	sharedLimit int64
	ownBytes    atomic.Int64
	sharedBytes atomic.Int64
	waiting     atomic.Bool
	freed       chan struct{} // signalled on a refund while the reader waits; holds one
}

func newLedger(r *reserve, cfg Config) *ledger {
	return &ledger{
		reserve:     r,
		ownLimit:    cfg.ReservedBytes,
		sharedLimit: cfg.ConnectionBytes,
		freed:       make(chan struct{}, 1),
	}
}

// tryCharge charges bytes if that is possible at once.
func (l *ledger) tryCharge(bytes int64) (charge, bool) {
	if c, ok := l.chargeOwn(bytes); ok {
		return c, true
	}
	if l.sharedBytes.Load()+bytes > l.sharedLimit || !l.reserve.take(bytes) {
		return charge{}, false
	}
	l.sharedBytes.Add(bytes)
	return charge{sharedBytes: bytes}, true
}

func (l *ledger) chargeOwn(bytes int64) (charge, bool) {
	if l.ownBytes.Load()+bytes > l.ownLimit {
		return charge{}, false
	}
	l.ownBytes.Add(bytes)
	return charge{ownBytes: bytes}, true
}

// awaitCharge waits until bytes can be charged, or until stop is closed: then it returns false. It takes what comes
// first: a refund of the connection's own requests, or its turn in the queue for the reserve.
func (l *ledger) awaitCharge(bytes int64, stop <-chan struct{}) (charge, bool) {
	l.waiting.Store(true)
	defer l.waiting.Store(false)
	var queued *claim
	for {
		if c, ok := l.chargeOwn(bytes); ok {
			l.abandon(queued)
			return c, true
		}
		var granted <-chan struct{}
		if queued == nil && l.sharedBytes.Load()+bytes <= l.sharedLimit {
			queued = l.reserve.enqueue(bytes)
		}
		if queued != nil {
			granted = queued.granted
		}
		select {
		case <-granted:
			l.sharedBytes.Add(bytes)
			return charge{sharedBytes: bytes}, true
		case <-l.freed:
		case <-stop:
			l.abandon(queued)
			return charge{}, false
		}
	}
}

// abandon gives up a claim, whether or not it has been granted meanwhile.
func (l *ledger) abandon(queued *claim) {
	if queued != nil && !l.reserve.withdraw(queued) {
		l.reserve.give(queued.bytes)
	}
}

// refund gives a charge back. A reader that waits is told after the account has changed, so it can't miss it.
func (l *ledger) refund(c charge) {
	if c.ownBytes != 0 {
		l.ownBytes.Add(-c.ownBytes)
	}
	if c.sharedBytes != 0 {
		l.sharedBytes.Add(-c.sharedBytes)
		l.reserve.give(c.sharedBytes)
	}
	if l.waiting.Load() {
		select {
		case l.freed <- struct{}{}:
		default:
		}
	}
}

// heldBytes is what the connection occupies now.
func (l *ledger) heldBytes() int64 { return l.ownBytes.Load() + l.sharedBytes.Load() }
