package replication

import (
	"errors"
	"fmt"
	"time"

	"duet/bitmap"
)

// errUnmarked ends the session of a peer that does not say that it has marked its differing blocks. This node has the
// bits, so that the resync that follows copies them all the same.
var errUnmarked = errors.New("the peer does not mark the blocks that differ")

// verifyCompared ends a comparison: with a repair what differs is marked, on both ends.
func (r *Resource) verifyCompared(y *verification, cause error) {
	y.stop(nil)
	y.ended = time.Now()
	switch {
	case errors.Is(cause, errVerifyCancelled):
		y.state, y.reason = VerifyCancelled, cause.Error()
	case cause != nil:
		y.state, y.reason = VerifyFailed, cause.Error()
	case y.options.Repair && y.differentBytes() > 0:
		y.state = VerifyRepairing
	default:
		y.state = VerifyDone
	}
	for _, p := range y.peers {
		r.tellVerified(y, p)
	}
}

func (y *verification) differentBytes() uint64 {
	y.volume.mu.Lock()
	defer y.volume.mu.Unlock()
	sum := uint64(0)
	for _, p := range y.peers {
		sum += p.different.added
	}
	return sum
}

// tellVerified tells the operator and the peer how the comparison ended.
func (r *Resource) tellVerified(y *verification, p *verifyPeer) {
	s := p.session
	r.volume.mu.Lock()
	different := p.different.added
	ranges, more := p.different.ranges(r.volume.sizeBytes.Load(), 1)
	r.volume.mu.Unlock()
	state, reason := y.state, y.reason
	done := verifyMessage{DifferentBlocks: different / bitmap.BlockBytes, Reason: reasonText(y.reason)}
	switch {
	case state != VerifyDone && state != VerifyRepairing:
	case different == 0:
		state, reason = VerifyDone, "no difference"
	default:
		reason = fmt.Sprintf("%d KiB differ in %d ranges, first %d bytes at %d", different/1024, len(ranges)+more, ranges[0].Length,
			ranges[0].Offset)
	}
	switch {
	case different == 0 || state == VerifyRepairing:
	case state == VerifyDone:
		reason += fmt.Sprintf("; if the copy of %s is the right one: duet verify %s --repair", r.cfg.Node, r.name)
	default:
		reason += fmt.Sprintf("; %d KiB that differ were found until then", different/1024)
	}
	r.emit("verify", s.peer, string(state), reason)
	if done.Repair = state == VerifyRepairing; done.Repair {
		if err := r.markPeer(p); err != nil {
			y.state, y.reason = VerifyFailed, err.Error()
			r.emit("verify", s.peer, string(VerifyFailed), y.reason)
			s.fail(err)
			return
		}
	}
	if err := s.sendMessage(Header{Type: FrameVerifyDone, Generation: r.volume.Generation()}, &done); err != nil {
		s.fail(err)
	}
}

// markPeer makes bits of what differs, durably, before the peer is told. From then on it does not stay in the set.
func (r *Resource) markPeer(p *verifyPeer) error {
	l := r.links[p.session.peer]
	if l == nil || r.local == nil || !r.serving || !r.adopted.inSync(p.session.peer) {
		return errors.New("the repair could not begin: the configuration has changed")
	}
	store, mask := r.local.store, bitmap.SlotBit(l.slot)
	r.volume.mu.Lock()
	for _, s := range p.different.spans {
		store.Set(mask, s.off, min(s.n, r.volume.sizeBytes.Load()-s.off))
	}
	r.volume.mu.Unlock()
	if err := r.beside(func() error { return store.Persist(mask) }); err != nil {
		r.diskFailed(r.local, err)
		return fmt.Errorf("the repair could not begin: %w", err)
	}
	l.differs = time.Now()
	return p.session.sendDiffering(store)
}

// sendDiffering sends the bits towards the peer, which are what differs there.
func (s *session) sendDiffering(store *bitmap.Store) error {
	blocks := s.volume.sizeBytes.Load() / bitmap.BlockBytes
	for from, done := uint64(0), false; !done; {
		payload, next, last, err := encodeBitmapChunk(store, s.slot, from, blocks)
		if err != nil {
			return err
		}
		s.sendFrame(Header{Type: FrameVerifyDiffers, Generation: s.volume.Generation()}, payload)
		from, done = next, last
	}
	return nil
}

// differing reports whether a peer is still in the set that a verify found different.
func (r *Resource) differing() bool {
	for _, l := range r.links {
		if !l.differs.IsZero() && r.adopted.inSync(l.node) {
			return true
		}
	}
	return false
}

// watchDiffering ends the session of a peer that has not marked what differs.
func (r *Resource) watchDiffering() {
	for _, l := range r.links {
		if !l.differs.IsZero() && l.session != nil && time.Since(l.differs) > r.cfg.Timing.AckTimeout {
			l.session.fail(errUnmarked)
		}
	}
}

// verifyMarked: the peer has marked what differs. The end of its session takes it out of the set and brings it back by a
// resync.
func (r *Resource) verifyMarked(s *session) {
	l := r.links[s.peer]
	if l == nil || l.session != s || l.differs.IsZero() {
		s.fail(fmt.Errorf("%s marked blocks, which was not asked for", s.peer))
		return
	}
	s.fail(fmt.Errorf("a verify found %d KiB on %s that differ; they are copied again", r.outOfSync(l.slot)/1024, s.peer))
}

// watchRepair follows the peers out of the in-sync set and back.
func (r *Resource) watchRepair(y *verification) {
	if !r.serving {
		y.state, y.ended = VerifyFailed, time.Now()
		y.reason = fmt.Sprintf("%s is not Primary any more; what differs is marked and will be copied by a resync", r.cfg.Node)
		r.emit("verify", "", string(y.state), y.reason)
		return
	}
	pending := 0
	for _, p := range y.peers {
		if p.repaired || len(p.different.spans) == 0 {
			continue
		}
		node := p.session.peer
		switch member := r.adopted.inSync(node); {
		case !member:
			p.left = true
		case p.left:
			p.repaired = true
			r.emit("verify", node, string(VerifyDone), "repaired: its differing blocks were copied from "+r.cfg.Node)
			continue
		}
		pending++
	}
	if pending == 0 {
		y.state, y.ended = VerifyDone, time.Now()
	}
}

// markDiffering makes bits, towards all other replicas, of the blocks in which this one differs from the Primary's:
// whichever of them is source next copies them.
func (s *session) markDiffering(h *Header, payload []byte) error {
	v := s.volume
	v.mu.Lock()
	local, generation, others := v.local, s.generation, v.others
	if local == nil || generation != h.Generation {
		v.mu.Unlock()
		return s.reject(h.Generation, generation)
	}
	v.marked, v.spilled = true, 0
	v.mu.Unlock()
	return decodeBitmapChunk(payload, v.sizeBytes.Load()/bitmap.BlockBytes, func(start, count uint64) {
		local.store.Set(others, start*bitmap.BlockBytes, count*bitmap.BlockBytes)
	})
}

// verifyDone ends the Secondary's part. Where the Primary wants a repair, this replica is durably Inconsistent before it
// answers, and so can't be promoted with what is wrong.
func (s *session) verifyDone(h *Header, payload []byte) error {
	var m verifyMessage
	if err := decodeMessage(h.Type, payload, &m); err != nil {
		return err
	}
	v := s.volume
	v.mu.Lock()
	local, generation, others, marked := v.local, s.generation, v.others, v.marked
	s.verify.running = false
	v.mu.Unlock()
	s.resource.post(func() { s.resource.emit("verify", s.peer, string(VerifyDone), m.text()) })
	if !m.Repair {
		return nil
	}
	if local == nil || generation != h.Generation || !marked {
		return fmt.Errorf("%s wants a repair of generation %d that did not begin in it, this node serves %d", s.peer, h.Generation, generation)
	}
	if err := local.store.Persist(others); err != nil {
		return err
	}
	if err := s.resource.becomeInconsistent(h.Generation); err != nil {
		return err
	}
	v.mu.Lock()
	s.header = Header{Type: FrameVerifyMarked}
	s.ackWriter.append(&s.header, nil)
	v.mu.Unlock()
	s.ackWriter.Flush()
	return nil
}

// text says it for people.
func (m *verifyMessage) text() string {
	switch {
	case m.Reason != "":
		return "ended early: " + reasonText(m.Reason)
	case m.Repair:
		return fmt.Sprintf("%d blocks differ here; this replica leaves the in-sync set and gets them again", m.DifferentBlocks)
	case m.DifferentBlocks > 0:
		return fmt.Sprintf("%d blocks differ here", m.DifferentBlocks)
	}
	return "no difference"
}
