package replication

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"duet/bitmap"
)

// A resync is pulled by the target in block order. The source holds the range lock of each block from its read until
// the target has written it, so a late answer never overtakes a newer write of the application. A bit is cleared, at
// both ends, only after a barrier that began after the block was written has made it durable at the target; a newer
// write that is not stable is in the transfer log, and becomes a bit again if the session is lost.

const (
	// resyncWindowBytes is how much a target keeps in flight, and resyncWindow in how many requests.
	resyncWindowBytes = 16 << 20
	resyncWindow      = 128
	// maxReading and maxReadingBytes are what a source puts up with.
	maxReading      = 256
	maxReadingBytes = 4 * resyncWindowBytes
)

// span is a range of bytes.
type span struct{ off, n uint64 }

// resyncRole is a session's part in a resync.
type resyncRole uint8

const (
	resyncNone resyncRole = iota
	resyncSource
	resyncTarget
	resyncPull // a Primary's, whose own disk is the target
)

// resyncState is one session's resync, guarded by Volume.mu.
type resyncState struct {
	role         resyncRole
	running      bool // bits are agreed on; blocks travel
	progress     progress
	total        uint64              // bytes to copy when running became true
	done         uint64              // bytes written at the target since then
	written      []span              // since the last barrier
	sealed       []span              // covered by the barrier in progress
	scanned      bool                // the target has asked for every set bit
	final        bool                // a barrier that began after that is in progress
	watched      uint64              // the oldest unanswered write at the watch's last look
	reading      map[uint64]*request // source: by the target's number, from request to written
	readingBytes uint64              // source: of these

	controller resyncController // source
	counted    latencyCounts    // the writes that it has seen
	told       controlMessage   // to the peer, at last
	peerPaused bool
	order      resyncOrder // the source's, at the target

	pull     uint64 // of a Primary's own disk: the number of the request for the peer's bitmap
	answered bool   // which follows, or has come

	// The target's.
	cursor      uint64             // the next block to look at
	asked       bool               // for every set bit
	nextSeq     uint64             // the last number given out
	flights     map[uint64]*flight // requests that are not written
	flyingBytes uint64             // of these
	bucket      rateBucket         // when the next one may be made
	compare     bool               // hashes may be sent
	choice      compareChoice      // whether the next request has them
}

// observeLocked notes how far the resync is by now.
func (s *session) observeLocked() {
	st := &s.resync
	st.progress.observe(time.Now(), st.done, s.volume.resyncs.paused || st.peerPaused)
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
	switch {
	case st.final && st.role == resyncSource:
		s.resource.post(func() { s.resource.resyncScanned(s) })
	case st.final && st.role == resyncPull:
		s.resource.post(func() { s.resource.pullScanned(s) })
	}
}

// clearEarlyLocked is what a deliberate bug does.
func (s *session) clearEarlyLocked(off, n uint64) {
	if sabotageClearEarly && s.volume.local != nil {
		s.volume.local.store.Clear(s.slot, off, n)
	}
}

// sendBitmap sends every set bit towards the peer.
func (s *session) sendBitmap(store *bitmap.Store) error {
	blocks := s.volume.sizeBytes.Load() / bitmap.BlockBytes
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
		return s.bitmapUnwanted()
	}
	return decodeBitmapChunk(payload, s.volume.sizeBytes.Load()/bitmap.BlockBytes, func(start, count uint64) {
		store.Set(bitmap.SlotBit(s.slot), start*bitmap.BlockBytes, count*bitmap.BlockBytes)
	})
}

// bitmapUnwanted is the result of a bitmap that meets no disk: for a Primary's own disk, whose failure ends no session, none.
func (s *session) bitmapUnwanted() error {
	s.volume.mu.Lock()
	defer s.volume.mu.Unlock()
	if s.resync.pull > 0 {
		return nil
	}
	return ErrDiskFailed
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
		return s.bitmapUnwanted()
	}
	if err := store.Persist(bitmap.SlotBit(s.slot)); err != nil {
		if s.bitmapUnwanted() == nil {
			return nil // the disk is given up, the session isn't
		}
		return err
	}
	s.volume.mu.Lock()
	role, superseded := s.resync.role, s.resync.pull > 0 && !s.resync.answered
	s.volume.mu.Unlock()
	if superseded || role == resyncNone {
		return nil
	}
	switch role {
	case resyncSource:
		return s.sendBitmap(store)
	case resyncPull:
		return s.pullReady()
	}
	return s.targetReady()
}

// resyncPlan is what the source decides about a resync.
type resyncPlan struct {
	full    bool // every block is copied
	known   bool // the source has every bit already, and the target's own are superseded
	compare bool // the target is to send hashes
}

// planResync plans a resync towards the peer of l.
func (r *Resource) planResync(l *link, decision sourceDecision) resyncPlan {
	plan := resyncPlan{full: decision.action == actionFull, known: decision.supersedes || sabotageOneSidedBits && decision.action == actionBitmap}
	r.volume.mu.Lock()
	always := r.volume.resyncs.compare
	r.volume.mu.Unlock()
	plan.compare = l.session.features.pieces &&
		(always || plan.full || r.adopted.replica(l.node).Discard.At != 0 || r.recovered&bitmap.SlotBit(l.slot) != 0 || l.session.hello.Recovered && !plan.known)
	return plan
}

// sourceStart begins a resync towards the peer.
func (s *session) sourceStart(plan resyncPlan) error {
	store := s.localStore()
	if store == nil {
		return ErrDiskFailed
	}
	h := Header{Type: FrameResyncStart, Generation: s.volume.Generation()}
	if plan.known {
		h.Flags |= FlagKnown
	}
	if plan.full {
		h.Flags |= FlagFull
		store.SetAll(s.slot)
		if err := store.Persist(bitmap.SlotBit(s.slot)); err != nil {
			return err
		}
	}
	payload, err := encodeMessage(h.Type, &resyncMessage{DirtyBlocks: store.DirtyBlocks(s.slot), Compare: plan.compare})
	if err != nil {
		return err
	}
	h.setPayload(payload)
	// Every write from here on follows ResyncStart on the same connection, so the target is durably Inconsistent before
	// it applies one; and none can fall between the bitmap that is sent and the writes that are.
	s.volume.mu.Lock()
	s.resync.role = resyncSource
	if err := s.tellLocked(); err != nil { // a paused target asks for nothing, not even at first
		s.volume.mu.Unlock()
		return err
	}
	s.header = h
	s.dataWriter.append(&s.header, payload)
	s.volume.addLegLocked(s)
	s.volume.mu.Unlock()
	s.dataWriter.Flush()
	if plan.known {
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
	s.resync.running = true
	s.observeLocked()
	s.resync.total = v.local.store.DirtyBlocks(s.slot) * bitmap.BlockBytes
	s.resource.post(func() { s.resource.resyncBegan(s) })
	s.wakePace()
	return s.tellLocked()
}

// sourceRequest locks the range that the target wants and reads it.
func (s *session) sourceRequest(h *Header, hashes []byte) error {
	v := s.volume
	r := v.getRequest(opResyncRead, h.Offset, h.Length)
	r.origin, r.seq = s, h.Seq
	r.payload = v.buffers.get(int(h.Length))
	r.p = r.payload.p
	if len(hashes) > 0 {
		r.hashes = hashes
	}
	v.mu.Lock()
	st := &s.resync
	if st.role != resyncSource || !st.running || len(st.reading) >= maxReading || st.readingBytes+h.Length > maxReadingBytes || st.reading[h.Seq] != nil {
		v.mu.Unlock()
		v.putRequest(r)
		return fmt.Errorf("%s sent %s out of turn", s.peer, h)
	}
	st.reading[h.Seq] = r
	st.readingBytes += h.Length
	if sabotageUnlockedResync {
		r.entry.off += 1 << 40
	}
	held := v.ranges.lock(&r.entry)
	v.mu.Unlock()
	if held {
		v.enter(r, nil)
	}
	return nil
}

// answer reads what a target asked for and sends it; it runs on a worker.
func (s *session) answer(r *request, local *localDisk, dead bool) {
	if local == nil || dead {
		s.dropResync(r, ErrDiskFailed)
		return
	}
	var pieces []piece
	if isHole(local.disk, r.offsetBytes, r.lengthBytes) {
		pieces = cutHole(pieces, r.lengthBytes, r.hashes)
	} else {
		if _, err := local.disk.ReadAt(r.p, int64(r.offsetBytes)); err != nil {
			r.abandoned = errors.Is(err, errGivenUp)
			s.dropResync(r, fmt.Errorf("read %d bytes at %d for a resync: %w", len(r.p), r.offsetBytes, err))
			return
		}
		pieces = cutPieces(pieces, r.p, r.hashes)
	}
	if !s.features.pieces {
		pieces = wholePiece(pieces, r.lengthBytes)
	}
	s.sendPieces(r, pieces)
}

// sendPieces answers; the range stays locked until the target has written all of it.
func (s *session) sendPieces(r *request, pieces []piece) {
	frames, payloads := make([]Header, len(pieces)), make([][]byte, len(pieces))
	for i, p := range pieces {
		frames[i] = Header{Type: p.kind.frame(), Seq: r.seq, Offset: r.offsetBytes + p.off, Length: p.n}
		if p.kind != pieceData {
			continue
		}
		payloads[i] = r.p[p.off:][:p.n]
		if packed := s.pack(r, payloads[i]); packed != nil {
			payloads[i], frames[i].Flags = packed, FlagCompressed
		}
		frames[i].PayloadCRC = payloadChecksum(payloads[i])
	}
	v := s.volume
	v.mu.Lock()
	if s.closed {
		s.forgetLocked(r)
		return
	}
	sent := 0
	for i := range frames {
		frames[i].Generation = v.generation
		s.dataWriter.append(&frames[i], payloads[i])
		sent += len(payloads[i])
	}
	r.resynced = true // the answer is under way: whoever ends the session releases r
	v.mu.Unlock()
	s.sentBytes.Add(uint64(sent))
	s.dataWriter.Flush()
}

// pack returns the content compressed if that pays, else nil. The result lives as long as r.
func (s *session) pack(r *request, content []byte) []byte {
	if !s.features.zstd || len(content) < smallestPacked {
		return nil
	}
	b := s.volume.buffers.get(len(content))
	packed, err := s.packer.pack(content, s.dataWriter.linkRate(), b)
	if packed == nil {
		s.volume.buffers.put(b)
		if err != nil {
			s.resource.log.Warn("compression", "error", err)
		}
		return nil
	}
	r.packed = append(r.packed, b)
	return packed
}

// dropResync ends the session because of a request that can't be answered.
func (s *session) dropResync(r *request, err error) {
	s.fail(err)
	s.volume.mu.Lock()
	s.forgetLocked(r)
}

// forgetLocked gives back what a request of the target holds; it unlocks Volume.mu.
func (s *session) forgetLocked(r *request) {
	delete(s.resync.reading, r.seq)
	s.resync.readingBytes -= r.lengthBytes
	s.volume.releaseLocked(r, nil)
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
	s.resync.written = append(s.resync.written, span{r.offsetBytes, r.lengthBytes})
	s.resync.done += r.lengthBytes
	s.observeLocked()
	s.clearEarlyLocked(r.offsetBytes, r.lengthBytes)
	last := s.resync.scanned && len(s.resync.reading) == 1
	v.touched = true // a barrier now and then is enough while the resync goes on
	s.forgetLocked(r)
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
	for _, r := range s.resync.reading {
		if r.resynced {
			sent = append(sent, r)
		}
	}
	v.mu.Unlock()
	for _, r := range sent {
		v.mu.Lock()
		s.forgetLocked(r)
	}
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
