package replication

import (
	"errors"
	"fmt"
	"time"

	"duet/bitmap"
)

// flight is a request of a target from being asked to being written.
type flight struct {
	off, n   uint64
	next     uint64 // where the next piece of the answer has to begin
	left     uint64 // bytes that are not written yet
	same     uint64 // bytes that were there already
	data     uint64 // bytes that were sent
	compared bool   // hashes were sent
}

// targetStart makes this disk durably Inconsistent before anything of the resync is written to it, and offers its own
// bits to the source.
func (s *session) targetStart(h *Header, payload []byte) error {
	var m resyncMessage
	if err := decodeMessage(h.Type, payload, &m); err != nil {
		return err
	}
	store := s.localStore()
	if store == nil {
		return ErrDiskFailed
	}
	if err := s.mayBeTarget(); err != nil {
		return s.giveUpResync(err)
	}
	if err := s.resource.becomeInconsistent(h.Generation); err != nil {
		return err
	}
	s.volume.mu.Lock()
	s.resync.role = resyncTarget
	s.resync.compare = m.Compare && s.features.pieces && !s.resource.doubtful
	s.volume.mu.Unlock()
	switch {
	case h.Flags&FlagFull != 0:
		store.SetAll(s.slot)
		if err := store.Persist(bitmap.SlotBit(s.slot)); err != nil {
			return err
		}
		return s.targetReady()
	case h.Flags&FlagKnown != 0:
		store.ClearAll(s.slot) // the source's bitmap, which follows, supersedes it
		return nil
	}
	return s.sendBitmap(store)
}

// targetReady tells the source and asks for the first blocks.
func (s *session) targetReady() error {
	if err := s.roomToSave(); err != nil {
		return s.giveUpResync(err)
	}
	if err := s.sendMessage(Header{Type: FrameResyncReady}, &resyncMessage{}); err != nil {
		return err
	}
	v := s.volume
	v.mu.Lock()
	if v.local == nil { // it failed a moment ago
		v.mu.Unlock()
		return ErrDiskFailed
	}
	st := &s.resync
	st.running, st.cursor = true, 0
	s.observeLocked()
	st.total = v.local.store.DirtyBlocks(s.slot) * bitmap.BlockBytes
	err := s.tellLocked()
	v.mu.Unlock()
	s.wakePace()
	s.dataWriter.Flush()
	if err != nil {
		return err
	}
	s.resource.post(func() { s.resource.resyncBegan(s) })
	return nil
}

// pullLocked asks for the next dirty blocks, as many as may be in flight; after the last it says so. The result is how
// long the next request has to wait for its time, 0 if it doesn't.
func (s *session) pullLocked() time.Duration {
	st, store := &s.resync, s.volume.local.store
	order, now := s.orderLocked(), time.Now()
	for !st.asked && !order.Hold && len(st.flights) < resyncWindow && (len(st.flights) == 0 || st.flyingBytes+order.RequestBytes <= order.WindowBytes) {
		start, count, ok := store.NextDirty(s.slot, st.cursor)
		if !ok {
			st.asked = true
			break
		}
		if wait := st.bucket.wait(now); wait > 0 && order.Rate > 0 {
			return wait
		}
		count = min(count, order.RequestBytes/bitmap.BlockBytes)
		st.cursor = start + count
		st.bucket.take(now, count*bitmap.BlockBytes, order.Rate)
		s.askLocked(start*bitmap.BlockBytes, count*bitmap.BlockBytes)
	}
	if st.asked && !st.scanned && len(st.flights) == 0 {
		st.scanned = true
		if st.role == resyncPull {
			s.resource.post(s.finishResync)
			return 0
		}
		s.header = Header{Type: FrameResyncDone, Generation: s.generation}
		s.header.setPayload([]byte("{}"))
		s.dataWriter.append(&s.header, []byte("{}"))
	}
	return 0
}

// askLocked asks for one range, by way of a worker if hashes are to go with it.
func (s *session) askLocked(off, n uint64) {
	st := &s.resync
	st.nextSeq++
	f := &flight{off: off, n: n, next: off, left: n}
	st.flights[st.nextSeq] = f
	st.flyingBytes += n
	if st.role == resyncPull {
		s.askOwnLocked(f, st.nextSeq)
		return
	}
	if st.compare && st.choice.next() {
		s.applying++
		s.volume.pool.submit(&comparison{s, f, st.nextSeq})
		return
	}
	s.header = Header{Type: FrameResyncRequest, Seq: st.nextSeq, Offset: off, Length: n, Generation: s.generation}
	s.dataWriter.append(&s.header, nil)
}

// comparison is a request with hashes; it is made on a worker.
type comparison struct {
	s   *session
	f   *flight
	seq uint64
}

func (c *comparison) run() {
	s, v := c.s, c.s.volume
	hashes, err := c.hashes()
	if err != nil {
		s.fail(err)
	}
	v.mu.Lock()
	if !s.closed && err == nil {
		c.f.compared = hashes != nil
		s.header = Header{Type: FrameResyncRequest, Seq: c.seq, Offset: c.f.off, Length: c.f.n, Generation: s.generation}
		if hashes != nil {
			s.header.Type = FrameResyncCompare
			s.header.setPayload(hashes)
		}
		s.dataWriter.append(&s.header, hashes)
	}
	v.mu.Unlock()
	s.dataWriter.Flush()
	s.applied()
}

// hashes are those of the blocks, nil where nothing is stored: whatever the source has there has to be sent.
func (c *comparison) hashes() ([]byte, error) {
	v := c.s.volume
	v.mu.Lock()
	local := v.local
	v.mu.Unlock()
	if local == nil {
		return nil, ErrDiskFailed
	}
	if isHole(local.disk, c.f.off, c.f.n) {
		return nil, nil
	}
	b := v.buffers.get(int(c.f.n))
	if _, err := local.disk.ReadAt(b.p, int64(c.f.off)); err != nil {
		if !errors.Is(err, errGivenUp) {
			v.buffers.put(b)
		}
		return nil, fmt.Errorf("read %d bytes at %d for a comparison: %w", c.f.n, c.f.off, err)
	}
	hashes := hashBlocks(b.p)
	v.buffers.put(b)
	return hashes, nil
}

// applyResync takes one piece of an answer.
func (s *session) applyResync(in *frameReader, h *Header, b *burst) error {
	if err := s.claimPiece(h); err != nil {
		return err
	}
	v := s.volume
	if h.Type == FrameResyncSame {
		v.mu.Lock()
		s.pieceWrittenLocked(h.Seq, h.Length)
		v.mu.Unlock()
		b.Defer(s.ackWriter)
		b.Defer(s.dataWriter)
		return nil
	}
	r := v.getRequest(applyOpcode(h.Type), h.Offset, h.Length)
	r.origin, r.seq, r.resynced = s, h.Seq, true
	r.legs.Store(1)
	if h.PayloadLength == 0 && v.saves(r) {
		v.resumeOnWorker(r, phaseLocal)
		return nil
	}
	if h.PayloadLength == 0 {
		v.executeLocal(r, b)
		return nil
	}
	r.payload = v.buffers.get(int(h.PayloadLength))
	r.p = r.payload.p
	if err := in.payload(h, r.p); err != nil {
		v.appliedOne(r)
		return err
	}
	s.receivedBytes.Add(uint64(h.PayloadLength))
	next := phaseLocal
	if h.Flags&FlagCompressed != 0 {
		next = phaseUnpack
	}
	v.resumeOnWorker(r, next)
	return nil
}

// claimPiece checks that h is the next piece of an answer that is waited for, and counts it as being applied unless
// nothing has to be.
func (s *session) claimPiece(h *Header) error {
	v := s.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	f := s.resync.flights[h.Seq]
	fits := f != nil && h.Offset == f.next && h.Length <= f.off+f.n-f.next &&
		(s.features.pieces && h.Length%bitmap.BlockBytes == 0 || h.Length == f.n)
	fits = fits && (s.features.zstd || h.Flags&FlagCompressed == 0)
	if !fits || s.resync.role != resyncTarget || !s.resync.running || v.local == nil {
		return fmt.Errorf("%s sent %s out of turn", s.peer, h)
	}
	f.next += h.Length
	// Also where this disk has it already: a replica that is away may have something else, and its own bits say nothing of a new disk.
	if others := v.outside &^ bitmap.SlotBit(s.slot); others != 0 {
		v.local.store.Set(others, h.Offset, h.Length)
	}
	if h.Type == FrameResyncSame {
		if !f.compared {
			return fmt.Errorf("%s sent %s without a comparison", s.peer, h)
		}
		f.same += h.Length
		return nil
	}
	if h.Type == FrameResyncData {
		f.data += h.Length
	}
	s.applying++
	return nil
}

// pieceWrittenLocked: with the last piece of an answer the source is told, and asked for more.
func (s *session) pieceWrittenLocked(seq, n uint64) {
	st := &s.resync
	f := st.flights[seq]
	if f.left -= n; f.left > 0 {
		return
	}
	delete(st.flights, seq)
	st.flyingBytes -= f.n
	if f.compared {
		st.choice.learn(f.same, f.n)
	}
	st.written = append(st.written, span{f.off, f.n})
	st.done += f.n
	s.observeLocked()
	s.clearEarlyLocked(f.off, f.n)
	if s.closed {
		return
	}
	if st.role == resyncPull {
		if s.pullLocked() > 0 {
			s.wakePace()
		}
		return
	}
	s.header = Header{Type: FrameResyncWritten, Seq: seq, Offset: f.off, Length: f.n}
	s.ackWriter.append(&s.header, nil)
	st.bucket.giveBack(f.n-f.data, s.orderLocked().Rate)
	if s.volume.local != nil && s.pullLocked() > 0 {
		s.wakePace()
	}
}

// resyncWritten: a piece is on this disk.
func (v *Volume) resyncWritten(r *request) {
	s := r.origin
	v.mu.Lock()
	if r.err == nil {
		s.pieceWrittenLocked(r.seq, r.lengthBytes)
	}
	v.mu.Unlock()
	s.ackWriter.Flush()
	s.dataWriter.Flush()
	v.appliedOne(r)
}
