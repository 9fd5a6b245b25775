package replication

import (
	"fmt"
	"slices"
	"time"

	"duet/bitmap"
)

// A Primary may answer a read only if nobody else can have become Primary, and acknowledged something newer, before the
// data was read. Writes show that by themselves, since every in-sync replica has to acknowledge them; for reads each of
// these replicas grants a lease (rules R7 and R8 in docs/QUORUM.md). The Primary asks all of them, in numbered rounds, on
// the connections that bulk data can't fill. The lease counts from the asking by the Primary's clock; a replica that
// answered does not ask to be promoted for longer than that by its own, counted from the answer. With ReadsConfirm no clock
// is believed: a read is answered after a round that began after it.

// ReadMode says what a Primary needs for a read while other replicas are in sync.
type ReadMode uint8

// The modes. A clock that stands still while a virtual machine is stopped makes a lease worth nothing.
const (
	ReadsLease   ReadMode = iota // a lease of each that is running
	ReadsConfirm                 // an answer of each to a question that was asked after the read began
)

// String is the word for status and flags.
func (m ReadMode) String() string {
	return [...]string{"lease", "confirm"}[m]
}

// leaseRounds is how many rounds may be unanswered before the oldest is forgotten.
const leaseRounds = 64

// heldLease is what a Primary has of one replica; guarded by Volume.mu.
type heldLease struct {
	asked [leaseRounds]struct {
		round uint64
		at    time.Duration
	}
	round uint64        // the newest that was granted
	until time.Duration // by the Primary's clock
}

// ask notes when a round was asked for.
func (l *heldLease) ask(round uint64, now time.Duration) {
	slot := &l.asked[round%leaseRounds]
	slot.round, slot.at = round, now
}

// granted notes an answer and reports whether it is news.
func (l *heldLease) granted(round uint64, length time.Duration) bool {
	slot := l.asked[round%leaseRounds]
	if round == 0 || slot.round != round || round <= l.round {
		return false
	}
	l.round, l.until = round, slot.at+length
	return true
}

// givenLease is what a replica has granted to a Primary; guarded by Volume.mu.
type givenLease struct {
	until time.Duration // by this replica's clock
	// candidate is the generation that a promotion of this replica was, or may still be, proposed for; 0: none.
	// A lease for it, or for an older one, is not granted any more: the proposal may be committed at any time.
	candidate uint64
}

// grant grants a lease in a generation until the guard has passed, unless this replica wants to be Primary itself.
func (g *givenLease) grant(generation uint64, until time.Duration) bool {
	if generation <= g.candidate {
		return false
	}
	g.until = max(g.until, until)
	return true
}

// guardOf is how long a replica keeps to a lease. The clocks of two nodes may differ in rate by one part in twelve before
// the lease outlives it; a hundredth is what is promised of them.
func guardOf(lease time.Duration) time.Duration { return lease + lease/6 }

// mayReadLocked reports whether a read whose data were read by now may be answered. round is the newest that had been asked
// for when it began.
func (v *Volume) mayReadLocked(round uint64) bool {
	left := v.members | v.adding
	if left == 0 || sabotageReadWithoutLease {
		return true
	}
	now := v.leases.Clock()
	for _, s := range v.legs {
		fresh := now < s.lease.until
		if v.leases.Mode == ReadsConfirm {
			fresh = s.lease.round > round
		}
		if fresh {
			left &^= bitmap.SlotBit(s.slot)
		}
	}
	return left == 0
}

// deposedLocked reports whether the role is lost in which every request under way was taken.
func (v *Volume) deposedLocked() bool { return v.gate == gateFenced || v.gate == gateRefused }

// keepReadLocked keeps a read until it may be answered, and has the leases asked for.
func (v *Volume) keepReadLocked(r *request) {
	v.unleased = append(v.unleased, r)
	v.wantLeasesLocked()
}

// wantLeasesLocked has leases asked for at once.
func (v *Volume) wantLeasesLocked() {
	select {
	case v.leaseWanted <- struct{}{}:
	default:
	}
}

// takeReadsLocked returns the reads that wait for a lease and need not any more.
func (v *Volume) takeReadsLocked() (ready []*request) {
	if len(v.unleased) == 0 {
		return nil
	}
	waiting := v.unleased[:0]
	for _, r := range v.unleased {
		if v.deposedLocked() || v.mayReadLocked(r.round) {
			ready = append(ready, r)
		} else {
			waiting = append(waiting, r)
		}
	}
	v.unleased = waiting
	return ready
}

// yieldReadsLocked makes of the reads that wait for a lease ones that have not begun: a Primary that gives its role up must not
// answer them from what was read, and a replica that left in good order meanwhile grants nothing any more.
func (v *Volume) yieldReadsLocked() {
	for _, r := range v.unleased {
		v.unlockRangeLocked(r)
		v.reading--
		v.parked = append(v.parked, r)
	}
	v.unleased = nil
}

// leasedRead answers a read on a worker.
type leasedRead struct {
	volume *Volume
	read   *request
}

func (l *leasedRead) run() { l.volume.finishRead(l.read, nil) }

// answerReadsLocked answers what need not wait any more, on workers.
func (v *Volume) answerReadsLocked() {
	for _, r := range v.takeReadsLocked() {
		v.pool.submit(&leasedRead{v, r})
	}
}

// leaseLoop owns the asking for leases. A tick wakes it, and a read that has to wait; Close ends it.
func (r *Resource) leaseLoop() {
	tick := time.NewTicker(r.cfg.Timing.LeaseInterval)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		case <-r.volume.leaseWanted:
		}
		flushWriters(r.volume.askLeases())
	}
}

// askLeases begins a round.
func (v *Volume) askLeases() (send []*frameWriter) {
	v.mu.Lock()
	defer v.mu.Unlock()
	wanted := v.members | v.adding
	if wanted == 0 || v.deposedLocked() {
		return nil
	}
	v.leaseRound++
	now := v.leases.Clock()
	for _, s := range v.legs {
		if wanted&bitmap.SlotBit(s.slot) == 0 {
			continue
		}
		s.lease.ask(v.leaseRound, now)
		s.header = Header{Type: FrameLeaseAsk, Seq: v.leaseRound, Generation: v.generation}
		s.ackWriter.append(&s.header, nil)
		send = append(send, s.ackWriter)
	}
	return send
}

// leaseAsked answers a Primary that this node serves in that generation; who is not answered goes without.
func (s *session) leaseAsked(h *Header, b *burst) {
	v := s.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	if s.generation == 0 {
		s.early = *h // the configuration is on its way, on the other connection
		return
	}
	if s.grantLocked(h) {
		b.Defer(s.ackWriter)
	}
}

// grantLocked grants a lease, unless this node serves a newer Primary or may become one itself.
func (s *session) grantLocked(h *Header) bool {
	v := s.volume
	if h.Generation < s.generation || v.gate != gateRefused || !v.given.grant(h.Generation, v.leases.Clock()+guardOf(v.leases.Length)) {
		return false
	}
	s.header = Header{Type: FrameLeaseGrant, Seq: h.Seq, Generation: h.Generation}
	s.ackWriter.append(&s.header, nil)
	return true
}

// grantEarlyLocked answers the question that came before the configuration, if it is for its generation.
func (s *session) grantEarlyLocked() bool {
	early := s.early
	s.early = Header{}
	return early.Generation != 0 && early.Generation == s.generation && s.grantLocked(&early)
}

// unconfirmed reports whether a session's peer has not shown yet that it takes this Primary's generation up.
func (r *Resource) unconfirmed(s *session) bool {
	r.volume.mu.Lock()
	defer r.volume.mu.Unlock()
	return s.unconfirmed
}

// leaseGranted takes an answer, and answers the reads that waited for it.
func (s *session) leaseGranted(h *Header, b *burst) {
	v := s.volume
	v.mu.Lock()
	if h.Generation != v.generation || !s.lease.granted(h.Seq, v.leases.Length) {
		v.mu.Unlock()
		return
	}
	if s.unconfirmed {
		s.unconfirmed = false
		s.resource.post(func() {})
	}
	ready := v.takeReadsLocked()
	v.mu.Unlock()
	for _, r := range ready {
		v.finishRead(r, b)
	}
}

// leaseMissingLocked ends the session with a member that grants no lease for as long as silence is borne: reads wait for
// it, and its removal is a new generation, in which it has no reason left to refuse.
func (s *session) leaseMissingLocked() error {
	v, timing := s.volume, &s.resource.cfg.Timing
	if v.deposedLocked() || v.members&bitmap.SlotBit(s.slot) == 0 || v.leases.Clock() < s.lease.until {
		s.leaseGone = time.Time{}
		return nil
	}
	if s.leaseGone.IsZero() {
		s.leaseGone = time.Now()
	}
	if gone := time.Since(s.leaseGone); gone > timing.PeerTimeout {
		return fmt.Errorf("%s has granted no lease for %v", s.peer, gone.Round(time.Millisecond))
	}
	return nil
}

// LeaseStatus is what a Primary has for its reads.
type LeaseStatus struct {
	Mode         ReadMode
	Margin       time.Duration // time left on the shortest lease, not below 0
	Missing      []string      // nodes whose lease has run out
	WaitingReads int
}

// leaseStatusLocked is nil where reads need no lease.
func (r *Resource) leaseStatusLocked() *LeaseStatus {
	v := r.volume
	wanted := v.members | v.adding
	if v.deposedLocked() || wanted == 0 {
		return nil
	}
	st := &LeaseStatus{Mode: v.leases.Mode, Margin: v.leases.Length, WaitingReads: len(v.unleased)}
	now := v.leases.Clock()
	for _, l := range r.links {
		if wanted&bitmap.SlotBit(l.slot) == 0 {
			continue
		}
		left := time.Duration(0)
		if l.session != nil {
			left = max(0, l.session.lease.until-now)
		}
		if st.Margin = min(st.Margin, left); left == 0 {
			st.Missing = append(st.Missing, l.node)
		}
	}
	slices.Sort(st.Missing)
	return st
}

// candidacy makes this replica grant no lease in the generation of a promotion that is to be proposed, and returns how long
// the proposal has to wait: until no lease is left that this replica, in this or an earlier run, may have granted. Who gave
// the role up clean has let its reads end before, and a process that has ended answers none. That there is no Primary is not
// enough: one that an operator deposed, because nobody reaches it, knows nothing of that.
func (r *Resource) candidacy(p Proposal, readsEnded bool) time.Duration {
	v := r.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	v.given.candidate = p.Generation
	if readsEnded || sabotageNoLeaseWait {
		return 0
	}
	return max(v.given.until, r.opened+guardOf(v.leases.Length)) - v.leases.Clock()
}
