package replication

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"duet/bitmap"
)

// readData is the loop on the data connection: it owns its reader, is woken by the peer, and ends with the connection.
// On a Secondary it is the apply path: hot writes are done inline, their acknowledgements go out together.
func (s *session) readData() error {
	in := newFrameReader(s.dataConn, dataReaderBytes)
	b := burst{stuck: s.readerGone}
	var h Header
	for {
		if in.buffered() < HeaderBytes {
			b.end()
		}
		if err := in.header(&h); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the peer closed the connection")
			}
			return fmt.Errorf("data connection: %w", err)
		}
		s.heard()
		b.more = in.buffered() >= HeaderBytes+int(h.PayloadLength)
		err := s.handleData(in, &h, &b)
		if b.relieved.Load() {
			return errReaderStuck
		}
		if err != nil {
			b.end()
			return err
		}
	}
}

// handleData takes one frame of the data connection.
func (s *session) handleData(in *frameReader, h *Header, b *burst) error {
	if err := s.checkRange(h); err != nil {
		return err
	}
	switch h.Type {
	case FrameData, FrameTrim, FrameZero:
		return s.applyWrite(in, h, b)
	case FrameReadReply:
		return s.readReplied(in, h, b)
	case FrameResyncData, FrameResyncZero, FrameResyncSame:
		return s.applyResync(in, h, b)
	}
	payload := make([]byte, h.PayloadLength)
	if err := in.payload(h, payload); err != nil {
		return err
	}
	b.end() // what follows may wait
	return s.handleControl(h, payload)
}

// handleControl takes the frames that are not part of the hot path.
func (s *session) handleControl(h *Header, payload []byte) error {
	v := s.volume
	switch h.Type {
	case FrameConfiguration:
		return s.configured(h, payload)
	case FrameBarrier:
		return s.applyBarrier(h)
	case FrameStable:
		v.mu.Lock()
		v.retireLocked(h.Epoch)
		v.clearSpilledLocked(h.Epoch)
		v.mu.Unlock()
	case FrameRead:
		return s.serveRead(h)
	case FrameBitmapChunk:
		return s.mergeBitmap(payload)
	case FrameBitmapDone:
		return s.bitmapMerged()
	case FrameResyncStart:
		return s.targetStart(h, payload)
	case FrameResyncReady:
		return s.sourceReady()
	case FrameResyncRequest, FrameResyncCompare:
		return s.sourceRequest(h, payload)
	case FrameResyncDone:
		s.sourceScanned()
	case FrameResyncControl:
		return s.controlled(h, payload)
	case FrameResyncAbort:
		return fmt.Errorf("%s gave the resync up: %s", s.peer, payload)
	case FramePullRequest:
		return s.pullAsked(h, payload)
	case FramePullStart:
		return s.pullStarted(h, payload)
	case FrameVerifyRequest:
		return s.verifyAsked(h)
	case FrameVerifyHashes:
		return s.verifyAnswered(h, payload)
	case FrameVerifyDiffers:
		return s.markDiffering(h, payload)
	case FrameVerifyDone:
		return s.verifyDone(h, payload)
	case FrameGoodbye:
		s.resource.post(func() { s.resource.peerLeaves(s, string(payload)) })
	default:
		return fmt.Errorf("%s sent %s on the data connection", s.peer, h.Type)
	}
	return nil
}

// checkRange refuses a range that is not on the device.
func (s *session) checkRange(h *Header) error {
	if h.Length > 0 && h.Offset+h.Length > s.volume.sizeBytes.Load() {
		return fmt.Errorf("%s sent %s behind the end of the device", s.peer, h)
	}
	return nil
}

// configured adopts the configuration that the Primary is about to act in; the reader waits, so that no frame of the new
// generation is looked at before.
func (s *session) configured(h *Header, payload []byte) error {
	var m configurationMessage
	if err := decodeMessage(h.Type, payload, &m); err != nil {
		return err
	}
	var conf Configuration
	if err := json.Unmarshal(m.Configuration, &conf); err != nil {
		return fmt.Errorf("configuration of %s: %w", s.peer, err)
	}
	done := make(chan error, 1)
	s.resource.post(func() { done <- s.resource.adoptFrom(s, conf) })
	select {
	case err := <-done:
		return err
	case <-s.closing:
		return s.cause
	}
}

// applyWrite is a Secondary's part of a write: validate the generation, take the extents, write, acknowledge.
func (s *session) applyWrite(in *frameReader, h *Header, b *burst) error {
	v := s.volume
	r := v.getRequest(applyOpcode(h.Type), h.Offset, h.Length)
	r.origin, r.seq, r.fua = s, h.Seq, h.Flags&FlagFUA != 0
	if h.PayloadLength > 0 {
		r.payload = v.buffers.get(int(h.PayloadLength))
		r.p = r.payload.p
		if err := in.payload(h, r.p); err != nil {
			v.putRequest(r)
			return err
		}
	}
	v.mu.Lock()
	local, generation := v.local, s.generation
	if local == nil || generation != h.Generation || s.closed {
		v.mu.Unlock()
		v.putRequest(r)
		return s.reject(h.Generation, generation)
	}
	s.applying++
	r.held = local
	r.epoch = v.epoch // as of now: a barrier that arrives behind r waits for it, however long its extents take
	v.inOpen++
	v.mu.Unlock()
	first, last := r.extents()
	if sabotageSkipActivityLog || local.store.TryAcquire(first, last) {
		v.startApply(r, b)
		return nil
	}
	local.store.Acquire(first, last, func(err error) { v.logged(r, err) })
	return nil
}

// applyOpcode is what a write frame asks for.
func applyOpcode(t FrameType) opcode {
	switch t {
	case FrameTrim, FrameResyncZero:
		return opTrim
	case FrameZero:
		return opZero
	}
	return opWrite
}

// reject answers a frame of a generation that this node does not serve.
func (s *session) reject(got, serving uint64) error {
	return fmt.Errorf("%s sent a write of generation %d, this node serves %d", s.peer, got, serving)
}

// startApply records and executes a Secondary's write whose extents are hot.
func (v *Volume) startApply(r *request, b Batch) {
	v.mu.Lock()
	v.recordLocked(r) // in its own epoch, however many barriers came while it waited: theirs wait for it
	r.legs.Store(1)
	v.mu.Unlock()
	v.writeLocal(r, b)
}

// finishApplyLocked acknowledges a Secondary's write; it unlocks v.mu.
func (v *Volume) finishApplyLocked(r *request, b Batch) {
	s := r.origin
	if !s.closed && r.err == nil {
		s.header = Header{Type: FrameWriteAck, Seq: r.seq, Generation: s.generation}
		s.ackWriter.append(&s.header, nil)
	}
	v.mu.Unlock()
	r.releaseExtents()
	flushOrDefer(b, s.ackWriter)
	v.appliedOne(r)
}

// appliedOne ends a request of a peer.
func (v *Volume) appliedOne(r *request) {
	s := r.origin
	v.putRequest(r)
	s.applied()
}

// applied counts down what of the session is under way here.
func (s *session) applied() {
	v := s.volume
	v.mu.Lock()
	s.applying--
	if s.applying == 0 {
		v.applied.Broadcast()
	}
	v.mu.Unlock()
}

// applyBarrier makes everything that arrived before it durable and then answers.
func (s *session) applyBarrier(h *Header) error {
	v := s.volume
	v.mu.Lock()
	if v.barrier != nil {
		v.mu.Unlock()
		return fmt.Errorf("%s sent a barrier while another is in progress", s.peer)
	}
	if h.Epoch < v.epoch {
		v.mu.Unlock()
		return fmt.Errorf("%s sent the barrier of epoch %d in epoch %d", s.peer, h.Epoch, v.epoch)
	}
	bar := &barrier{volume: v, epoch: h.Epoch, origin: s}
	v.sealEpochLocked(bar)
	s.sealWrittenLocked()
	if len(s.resync.sealed) > 0 {
		bar.told = v.others &^ bitmap.SlotBit(s.slot)
	}
	send := v.advanceBarrierLocked()
	v.mu.Unlock()
	flushWriters(send)
	return nil
}

// dropApply ends a Secondary's write that was never started: its extents could not be had.
func (v *Volume) dropApply(r *request) {
	v.mu.Lock()
	send := v.leaveEpochLocked(r)
	v.mu.Unlock()
	flushWriters(send)
	v.appliedOne(r)
}

// ackBarrierLocked answers the Primary's barrier.
func (s *session) ackBarrierLocked(epoch uint64) []*frameWriter {
	if s.closed {
		return nil
	}
	s.clearSealedLocked()
	s.header = Header{Type: FrameBarrierAck, Epoch: epoch, Generation: s.generation}
	s.ackWriter.append(&s.header, nil)
	return []*frameWriter{s.ackWriter}
}

// serveRead answers a diskless Primary.
func (s *session) serveRead(h *Header) error {
	v := s.volume
	v.mu.Lock()
	local, generation := v.local, s.generation
	v.mu.Unlock()
	if local == nil || generation != h.Generation {
		return s.reject(h.Generation, generation)
	}
	p := make([]byte, h.Length) // bounded by checkContent's rule for the type
	if _, err := local.disk.ReadAt(p, int64(h.Offset)); err != nil {
		return fmt.Errorf("read for %s: %w", s.peer, err)
	}
	s.sendFrame(Header{Type: FrameReadReply, Seq: h.Seq, Offset: h.Offset, Length: h.Length}, p)
	return nil
}

// readReplied finishes a remote read.
func (s *session) readReplied(in *frameReader, h *Header, b *burst) error {
	v := s.volume
	v.mu.Lock()
	r := s.reads.take(h.Seq)
	v.mu.Unlock()
	if r == nil || r.lengthBytes != uint64(h.PayloadLength) {
		return fmt.Errorf("%s answered read %d, which was not asked", s.peer, h.Seq)
	}
	if err := in.payload(h, r.p); err != nil {
		v.readAgain(r)
		return err
	}
	if r.op == opPull {
		v.pullArrived(r)
		return nil
	}
	v.finishRead(r, b)
	return nil
}

// readAgain does a read by another way, whose answer does not come.
func (v *Volume) readAgain(r *request) {
	if r.op == opPull {
		v.dropPull(r)
		return
	}
	v.resumeOnWorker(r, phaseLocal)
}
