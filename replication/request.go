package replication

import (
	"sync/atomic"
	"time"

	"duet/bitmap"
)

// opcode is what a request does.
type opcode uint8

const (
	opRead        opcode = iota
	opWrite              // payload to the range
	opTrim               // the range reads as zeroes, its space may be freed
	opZero               // the range reads as zeroes, its space stays
	opFlush              // a barrier
	opResyncRead         // the source's read for a resync; holds the range until the target has written it
	opVerify             // a Primary's comparison of a range with its peers; holds the range until all have answered
	opVerifyServe        // a Secondary's part of it
	opPull               // a block of a Primary's own disk that is brought up to date; holds the range until it is written
)

// phase is the step that a request takes next when a worker or a reopened gate resumes it.
type phase uint8

const (
	phaseSubmit phase = iota // nothing is held yet
	phaseEnter               // the range is locked
	phaseStart               // the activity log holds the extents
	phaseLocal               // the local leg
	phaseApply               // a Secondary's write whose extents are hot
	phaseUnpack              // a resync's block that came compressed
)

// request is one operation of a client, of the Primary that a Secondary serves, or of a resync. It is finished by
// whoever counts legs down to zero; no goroutine waits for it.
type request struct {
	entry rangeEntry // its lock; entry.owner is the request itself

	volume      *Volume
	op          opcode
	phase       phase
	fua         bool
	keepSpace   bool // opZero of a client that asked for allocated zeroes
	resynced    bool // opWrite, opTrim of a resync target
	p           []byte
	offsetBytes uint64
	lengthBytes uint64
	payloadCRC  uint32
	epoch       uint64
	legs        atomic.Int32
	err         error // written under Volume.mu

	began      time.Duration // since the volume was made, when the write is timed; else 0
	completion Completion    // a client's
	origin     *session      // whom to answer when the request came from a peer, or is a resync read for one
	seq        uint64        // the peer's number for it
	payload    *buffer       // owned by the request when not nil
	packed     []*buffer     // opResyncRead: compressed pieces of the answer
	hashes     []byte        // opResyncRead: of the target's blocks, nil for none
	verify     *verifyRange
	source     *session // opPull: who has it
	round      uint64   // opRead: of leases, the newest that was asked for when it began

	// held is the disk whose extents r holds, and which its local leg is for: a disk that is attached later does not get it.
	held      *localDisk
	operation diskOperation // of its local leg
	abandoned bool          // an operation on a disk that was given up may still use r: nothing of it is used again
}

// getRequest returns a request of the pool for the range.
func (v *Volume) getRequest(op opcode, off, n uint64) *request {
	r, ok := v.requests.Get().(*request)
	if !ok {
		r = &request{volume: v}
		r.entry.owner = r
	}
	r.op, r.offsetBytes, r.lengthBytes = op, off, n
	r.entry.off, r.entry.n = off, n
	return r
}

// putRequest gives r back; its payload goes with it.
func (v *Volume) putRequest(r *request) {
	if r.abandoned {
		return
	}
	v.buffers.put(r.payload)
	for _, b := range r.packed {
		v.buffers.put(b)
	}
	r.packed = nil
	r.phase, r.fua, r.keepSpace, r.resynced = phaseSubmit, false, false, false
	r.p, r.payload, r.payloadCRC, r.err = nil, nil, 0, nil
	r.began = 0
	r.completion, r.origin, r.seq, r.epoch, r.verify, r.hashes = nil, nil, 0, 0, nil, nil
	r.held, r.source = nil, nil
	v.requests.Put(r)
}

// extents is the range of activity-log extents that r touches.
func (r *request) extents() (first, last uint32) {
	return uint32(r.offsetBytes / bitmap.ExtentBytes), uint32((r.offsetBytes + r.lengthBytes - 1) / bitmap.ExtentBytes)
}

// mutates reports whether r changes the disk.
func (r *request) mutates() bool { return r.op == opWrite || r.op == opTrim || r.op == opZero }

// run resumes r on a worker.
func (r *request) run() {
	v := r.volume
	switch r.phase {
	case phaseSubmit:
		v.submit(r, nil)
	case phaseEnter:
		v.enter(r, nil)
	case phaseStart:
		v.start(r, nil)
	case phaseLocal:
		v.executeLocal(r, nil)
	case phaseApply:
		v.startApply(r, nil)
	case phaseUnpack:
		v.unpack(r)
	}
}

// resumeOnWorker hands r over; used where the caller must not do r's work itself.
func (v *Volume) resumeOnWorker(r *request, at phase) {
	r.phase = at
	v.pool.submit(r)
}

// pendingRing maps the sequence numbers of one session to the requests that wait for the peer's answer. Numbers are
// given out in order and answered nearly in order, so a ring beats a map.
type pendingRing struct {
	slots []*request // power of two
	base  uint64     // the oldest number that may be unanswered
	next  uint64     // the next number to give out
	count int
}

// add gives r the next number.
func (p *pendingRing) add(r *request) uint64 {
	if p.next-p.base == uint64(len(p.slots)) {
		p.grow()
	}
	seq := p.next
	p.slots[seq&uint64(len(p.slots)-1)] = r
	p.next++
	p.count++
	return seq
}

func (p *pendingRing) grow() {
	larger := make([]*request, max(64, 2*len(p.slots)))
	for seq := p.base; seq < p.next; seq++ {
		larger[seq&uint64(len(larger)-1)] = p.slots[seq&uint64(len(p.slots)-1)]
	}
	p.slots = larger
}

// take returns the request with this number and forgets it; nil when no such request waits.
func (p *pendingRing) take(seq uint64) *request {
	if seq < p.base || seq >= p.next {
		return nil
	}
	at := seq & uint64(len(p.slots)-1)
	r := p.slots[at]
	if r == nil {
		return nil
	}
	p.slots[at] = nil
	p.count--
	for p.base < p.next && p.slots[p.base&uint64(len(p.slots)-1)] == nil {
		p.base++
	}
	return r
}

// takeAll empties the ring, oldest first.
func (p *pendingRing) takeAll() []*request {
	var all []*request
	for seq := p.base; seq < p.next; seq++ {
		if r := p.take(seq); r != nil {
			all = append(all, r)
		}
	}
	return all
}
