package replication

import (
	"fmt"
	"slices"
	"time"

	"duet/bitmap"
)

// A resync is pulled by the target in block order. The source holds the range lock of each block from its read until
// the target has written it, so a late answer never overtakes a newer write of the application. A bit is cleared, at
// both ends, only after a barrier that began after the block was written has made it durable at the target; a newer
// write that is not stable is in the transfer log, and becomes a bit again if the session is lost.

// resyncWindow is how many requests a target keeps in flight.
const resyncWindow = 16

// span is a range of bytes.
type span struct{ off, n uint64 }

// resyncRole is a session's part in a resync.
type resyncRole uint8

const (
	resyncNone resyncRole = iota
	resyncSource
	resyncTarget
)

// resyncState is one session's resync, guarded by Volume.mu.
type resyncState struct {
	role    resyncRole
	running bool                // bits are agreed on; blocks travel
	started time.Time           // when running became true
	total   uint64              // bytes to copy when running became true
	done    uint64              // bytes written at the target since then
	written []span              // since the last barrier
	sealed  []span              // covered by the barrier in progress
	scanned bool                // the target has asked for every set bit
	final   bool                // a barrier that began after that is in progress
	reading map[uint64]*request // source: by the target's number, from request to written
	cursor  uint64              // target: the next block to look at
	flying  int                 // target: requests without their block written
	nextSeq uint64              // target
	watched uint64              // the oldest unanswered write at the watch's last look
}

// sealWrittenLocked: what was written until now is covered by the barrier that begins.
func (s *session) sealWrittenLocked() {
	st := &s.resync
	st.sealed = append(st.sealed, st.written...)
	st.written = st.written[:0]
	st.final = st.scanned && len(st.reading) == 0
}

// clearSealedLocked clears the bits of what the barrier made durable.
func (s *session) clearSealedLocked() {
	st, local := &s.resync, s.volume.local
	if local == nil || st.role == resyncNone {
		return
	}
	for _, sp := range st.sealed {
		local.store.Clear(s.slot, sp.off, sp.n)
	}
	st.sealed = st.sealed[:0]
	if st.final && st.role == resyncSource {
		s.resource.post(func() { s.resource.resyncScanned(s) })
	}
}

// clearEarlyLocked is what a deliberate bug does.
func (s *session) clearEarlyLocked(r *request) {
	if sabotageClearEarly && s.volume.local != nil {
		s.volume.local.store.Clear(s.slot, r.offsetBytes, r.lengthBytes)
	}
}

// sendBitmap sends every set bit towards the peer.
func (s *session) sendBitmap(store *bitmap.Store) error {
	blocks := s.volume.sizeBytes / bitmap.BlockBytes
	for from, done := uint64(0), false; !done; {
		payload, next, last, err := encodeBitmapChunk(store, s.slot, from, blocks)
		if err != nil {
			return err
		}
		s.sendFrame(Header{Type: FrameBitmapChunk}, payload)
		from, done = next, last
	}
	return s.sendMessage(Header{Type: FrameBitmapDone}, &resyncMessage{DirtyBlocks: store.DirtyBlocks(s.slot)})
}

// mergeBitmap sets the bits of one chunk of the peer's bitmap.
func (s *session) mergeBitmap(payload []byte) error {
	store := s.localStore()
	if store == nil {
		return ErrDiskFailed
	}
	return decodeBitmapChunk(payload, s.volume.sizeBytes/bitmap.BlockBytes, func(start, count uint64) {
		store.Set(bitmap.SlotBit(s.slot), start*bitmap.BlockBytes, count*bitmap.BlockBytes)
	})
}

// localStore is the attached metadata, nil when diskless.
func (s *session) localStore() *bitmap.Store {
	s.volume.mu.Lock()
	defer s.volume.mu.Unlock()
	if s.volume.local == nil {
		return nil
	}
	return s.volume.local.store
}

// bitmapMerged goes on when the peer's bitmap is complete: the source answers with the union, the target, which has the
// union now, is ready.
func (s *session) bitmapMerged() error {
	store := s.localStore()
	if store == nil {
		return ErrDiskFailed
	}
	if err := store.Persist(bitmap.SlotBit(s.slot)); err != nil {
		return err
	}
	s.volume.mu.Lock()
	role := s.resync.role
	s.volume.mu.Unlock()
	if role == resyncSource {
		return s.sendBitmap(store)
	}
	return s.targetReady()
}

// sourceStart begins a resync towards the peer. With full every block is copied; with known the source has every bit
// already and the target's own are superseded.
func (s *session) sourceStart(full, known bool) error {
	store := s.localStore()
	if store == nil {
		return ErrDiskFailed
	}
	h := Header{Type: FrameResyncStart, Generation: s.volume.currentGeneration()}
	if known {
		h.Flags |= FlagKnown
	}
	if full {
		h.Flags |= FlagFull
		store.SetAll(s.slot)
		if err := store.Persist(bitmap.SlotBit(s.slot)); err != nil {
			return err
		}
	}
	payload, err := encodeMessage(h.Type, &resyncMessage{DirtyBlocks: store.DirtyBlocks(s.slot)})
	if err != nil {
		return err
	}
	h.setPayload(payload)
	// Every write from here on follows ResyncStart on the same connection, so the target is durably Inconsistent before
	// it applies one; and none can fall between the bitmap that is sent and the writes that are.
	s.volume.mu.Lock()
	s.resync.role = resyncSource
	s.header = h
	s.dataWriter.append(&s.header, payload)
	s.volume.addLegLocked(s)
	s.volume.mu.Unlock()
	s.dataWriter.Flush()
	if known && !full {
		return s.sendBitmap(store)
	}
	return nil
}

// sourceReady: both ends have the union of the bits, and the target asks for blocks from here on.
func (s *session) sourceReady() error {
	v := s.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	if s.resync.role != resyncSource || v.local == nil || s.closed {
		return fmt.Errorf("%s is ready for a resync that was not begun", s.peer)
	}
	s.resync.running, s.resync.started = true, time.Now()
	s.resync.total = v.local.store.DirtyBlocks(s.slot) * bitmap.BlockBytes
	s.resource.post(func() { s.resource.resyncBegan(s) })
	return nil
}

// sourceRequest locks the range that the target wants and reads it.
func (s *session) sourceRequest(h *Header) error {
	v := s.volume
	r := v.getRequest(opResyncRead, h.Offset, h.Length)
	r.origin, r.seq = s, h.Seq
	r.payload = v.buffers.get(int(h.Length))
	r.p = r.payload.p
	v.mu.Lock()
	if s.resync.role != resyncSource || !s.resync.running || len(s.resync.reading) >= 4*resyncWindow || s.resync.reading[h.Seq] != nil {
		v.mu.Unlock()
		v.putRequest(r)
		return fmt.Errorf("%s sent %s out of turn", s.peer, h)
	}
	s.resync.reading[h.Seq] = r
	held := v.ranges.lock(&r.entry)
	v.mu.Unlock()
	if held {
		v.enter(r, nil)
	}
	return nil
}

// sendResyncData answers with the content; the range stays locked until the target has written it.
func (s *session) sendResyncData(r *request) {
	crc := payloadChecksum(r.p)
	s.answerResync(r, Header{Type: FrameResyncData, PayloadCRC: crc}, r.p)
}

// dropResync gives a range up that could not be read, and with it the session: the target gets no answer.
func (s *session) dropResync(r *request, err error) {
	s.fail(err)
	v := s.volume
	v.mu.Lock()
	delete(s.resync.reading, r.seq)
	v.releaseLocked(r, nil)
}

// sendResyncZero answers that the range is all zeroes.
func (s *session) sendResyncZero(r *request) { s.answerResync(r, Header{Type: FrameResyncZero}, nil) }

func (s *session) answerResync(r *request, h Header, payload []byte) {
	v := s.volume
	v.mu.Lock()
	if s.closed {
		delete(s.resync.reading, r.seq)
		v.releaseLocked(r, nil)
		return
	}
	h.Seq, h.Offset, h.Length, h.Generation = r.seq, r.offsetBytes, r.lengthBytes, v.generation
	r.resynced = true // the answer is under way: whoever ends the session releases r
	s.header = h
	s.dataWriter.append(&s.header, payload)
	v.mu.Unlock()
	s.sentBytes.Add(h.Length) // r may be released by now
	s.dataWriter.Flush()
}

// sourceWritten: the target has written the block; its range is free again.
func (s *session) sourceWritten(h *Header, text []byte) error {
	v := s.volume
	if h.Flags&FlagFailed != 0 {
		return fmt.Errorf("the disk of %s failed: %s", s.peer, text)
	}
	v.mu.Lock()
	r := s.resync.reading[h.Seq]
	if r == nil || !r.resynced {
		v.mu.Unlock()
		return fmt.Errorf("%s has written block %d, which was not sent", s.peer, h.Seq)
	}
	delete(s.resync.reading, h.Seq)
	s.resync.written = append(s.resync.written, span{r.offsetBytes, r.lengthBytes})
	s.resync.done += r.lengthBytes
	s.clearEarlyLocked(r)
	last := s.resync.scanned && len(s.resync.reading) == 0
	v.touched = true // a barrier now and then is enough while the resync goes on
	v.releaseLocked(r, nil)
	if last {
		s.finishResync()
	}
	return nil
}

// sourceScanned: the target has asked for every bit and written every block. That it has written the last ones comes by
// the other connection, and may be yet to come.
func (s *session) sourceScanned() {
	s.volume.mu.Lock()
	s.resync.scanned = true
	last := len(s.resync.reading) == 0
	s.volume.mu.Unlock()
	if sabotageAddEarly {
		s.resource.post(func() { s.resource.resyncScanned(s) })
	}
	if last {
		s.finishResync()
	}
}

// finishResync begins the barrier that makes the last blocks durable.
func (s *session) finishResync() {
	v := s.volume
	v.mu.Lock()
	send := v.wantBarrierLocked()
	v.mu.Unlock()
	flushWriters(send)
}

// releaseResyncReads frees the ranges of blocks whose answer the peer will not confirm any more.
func (s *session) releaseResyncReads() {
	v := s.volume
	v.mu.Lock()
	var sent []*request
	for seq, r := range s.resync.reading {
		if r.resynced {
			sent = append(sent, r)
			delete(s.resync.reading, seq)
		}
	}
	v.mu.Unlock()
	for _, r := range sent {
		v.mu.Lock()
		v.releaseLocked(r, nil)
	}
}

// targetStart makes this disk durably Inconsistent before anything of the resync is written to it, and offers its own
// bits to the source.
func (s *session) targetStart(h *Header) error {
	store := s.localStore()
	if store == nil {
		return ErrDiskFailed
	}
	if err := s.resource.becomeInconsistent(h.Generation); err != nil {
		return err
	}
	s.volume.mu.Lock()
	s.resync.role = resyncTarget
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
	st.running, st.started, st.cursor = true, time.Now(), 0
	st.total = v.local.store.DirtyBlocks(s.slot) * bitmap.BlockBytes
	s.pullLocked()
	v.mu.Unlock()
	s.dataWriter.Flush()
	s.resource.post(func() { s.resource.resyncBegan(s) })
	return nil
}

// pullLocked asks for the next dirty blocks, as many as the window holds; after the last it says so.
func (s *session) pullLocked() {
	st, store := &s.resync, s.volume.local.store
	for st.flying < resyncWindow && !st.scanned {
		start, count, ok := store.NextDirty(s.slot, st.cursor)
		if !ok {
			break
		}
		count = min(count, MaxResyncBytes/bitmap.BlockBytes)
		st.cursor = start + count
		st.flying++
		st.nextSeq++
		s.header = Header{Type: FrameResyncRequest, Seq: st.nextSeq, Offset: start * bitmap.BlockBytes,
			Length: count * bitmap.BlockBytes, Generation: s.generation}
		s.dataWriter.append(&s.header, nil)
	}
	if st.flying == 0 && !st.scanned {
		st.scanned = true
		s.header = Header{Type: FrameResyncDone, Generation: s.generation}
		s.header.setPayload([]byte("{}"))
		s.dataWriter.append(&s.header, []byte("{}"))
	}
}

// applyResync writes a block of the source.
func (s *session) applyResync(in *frameReader, h *Header, b *burst) error {
	v := s.volume
	r := v.getRequest(applyOpcode(h.Type), h.Offset, h.Length)
	r.origin, r.seq, r.resynced = s, h.Seq, true
	if h.PayloadLength > 0 {
		r.payload = v.buffers.get(int(h.PayloadLength))
		r.p = r.payload.p
		if err := in.payload(h, r.p); err != nil {
			v.putRequest(r)
			return err
		}
	}
	v.mu.Lock()
	if s.resync.role != resyncTarget || !s.resync.running || v.local == nil {
		v.mu.Unlock()
		v.putRequest(r)
		return fmt.Errorf("%s sent %s out of turn", s.peer, h)
	}
	s.applying++
	if others := v.outside &^ bitmap.SlotBit(s.slot); others != 0 {
		v.local.store.Set(others, r.offsetBytes, r.lengthBytes)
	}
	v.mu.Unlock()
	r.legs.Store(1)
	if h.PayloadLength == 0 {
		v.executeLocal(r, b)
		return nil
	}
	v.resumeOnWorker(r, phaseLocal)
	return nil
}

// resyncWritten tells the source that a block is on this disk and asks for more.
func (v *Volume) resyncWritten(r *request, b Batch) {
	s := r.origin
	v.mu.Lock()
	st := &s.resync
	st.written = append(st.written, span{r.offsetBytes, r.lengthBytes})
	st.done += r.lengthBytes
	s.clearEarlyLocked(r)
	st.flying--
	if !s.closed && r.err == nil {
		s.header = Header{Type: FrameResyncWritten, Seq: r.seq, Offset: r.offsetBytes, Length: r.lengthBytes}
		s.ackWriter.append(&s.header, nil)
		if v.local != nil {
			s.pullLocked()
		}
	}
	v.mu.Unlock()
	s.receivedBytes.Add(r.lengthBytes)
	s.ackWriter.Flush()
	s.dataWriter.Flush()
	v.appliedOne(r)
}

// addLegLocked makes s receive every write from now on.
func (v *Volume) addLegLocked(s *session) {
	if slices.Contains(v.legs, s) {
		return
	}
	v.legs = append(slices.Clone(v.legs), s)
	v.outside &^= bitmap.SlotBit(s.slot)
	v.hasLegs.Store(true)
}

// removeLegLocked ends that. The unstable ranges become bits towards the peer first: it may lack any of them.
func (v *Volume) removeLegLocked(s *session) {
	at := slices.Index(v.legs, s)
	if at < 0 {
		return
	}
	v.legs = slices.Delete(slices.Clone(v.legs), at, at+1)
	v.hasLegs.Store(len(v.legs) > 0)
	v.outside |= bitmap.SlotBit(s.slot)
	if v.local != nil {
		v.log.runs(func(off, n uint64) { v.local.store.Set(bitmap.SlotBit(s.slot), off, n) })
	}
}

// currentGeneration is the generation that tags this node's frames.
func (v *Volume) currentGeneration() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.generation
}
