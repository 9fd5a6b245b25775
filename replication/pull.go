package replication

import (
	"fmt"
	"slices"

	"duet/bitmap"
)

// A Primary whose disk was attached while it served is out of sync itself, and pulls what it lacks from a peer that is in
// sync. Every write goes to its disk, too, from the attach on, and it holds the range lock of each block from before it
// asks until it has written it, so what it copies is never older than what it has written. Its reads are done by the peer
// until the record has it in the in-sync set. The bits of both sides count, and are cleared as those of any resync.

// pullFeature is the name of the frames in Hello.
const pullFeature = "pull"

// pull is a Primary's resync of its own disk.
type pull struct {
	session *session
	local   *localDisk
	epoch   uint64 // requests that began before the attach, and so did not reach the disk, have finished when this is stable
	asked   bool   // for the peer's bitmap
	number  uint64 // of the request for it
	refused string // why the peer has none for it
}

// watchPull begins the pull that is needed, and takes its next step.
func (r *Resource) watchPull() {
	if !r.serving || r.local == nil || r.detached || r.adopted.inSync(r.cfg.Node) || r.selfAdding {
		return
	}
	v := r.volume
	if r.pull == nil || r.pull.local != r.local {
		s := r.pullSource()
		if s == nil {
			return
		}
		v.mu.Lock()
		r.pull = &pull{session: s, local: r.local, epoch: v.epoch}
		send := v.wantBarrierLocked()
		v.mu.Unlock()
		flushWriters(send)
		return
	}
	v.mu.Lock()
	finished := v.stable >= r.pull.epoch
	if !finished && v.barrier == nil {
		flushWritersLater(r, v.wantBarrierLocked())
	}
	v.mu.Unlock()
	if finished && !r.pull.asked {
		r.askForBitmap(r.pull)
	}
}

// flushWritersLater is for a caller that holds Volume.mu.
func flushWritersLater(r *Resource, send []*frameWriter) { r.post(func() { flushWriters(send) }) }

// pullSource is a session with a member that can be pulled from, nil if there is none.
func (r *Resource) pullSource() *session {
	for _, replica := range r.adopted.Replicas {
		l := r.links[replica.Node]
		if l == nil || l.session == nil || !l.begun || !r.adopted.inSync(l.node) || !slices.Contains(l.session.hello.Features, pullFeature) {
			continue
		}
		return l.session
	}
	return nil
}

// askForBitmap tells the peer what this disk says of itself, and asks for what it lacks.
func (r *Resource) askForBitmap(p *pull) {
	p.asked = true
	s := p.session
	r.pulls++
	p.number = r.pulls
	mine := r.helloTo(r.links[s.peer])
	mine.Kind, mine.SessionID = dataConnection, s.hello.SessionID
	r.volume.mu.Lock()
	s.resync = resyncState{role: resyncPull, pull: p.number, reading: s.resync.reading, flights: map[uint64]*flight{}}
	r.volume.mu.Unlock()
	if err := s.sendMessage(Header{Type: FramePullRequest, Seq: p.number, Generation: r.adopted.Generation}, &mine); err != nil {
		s.fail(err)
	}
}

// pullAsked answers a Primary that wants its own disk brought up to date.
func (s *session) pullAsked(h *Header, payload []byte) error {
	var theirs hello
	if err := decodeMessage(h.Type, payload, &theirs); err != nil {
		return err
	}
	if theirs.From != s.peer {
		return fmt.Errorf("%s asks in the name of %s", s.peer, theirs.From)
	}
	number := h.Seq
	s.resource.post(func() {
		if err := s.resource.answerPull(s, number, theirs); err != nil {
			s.fail(err)
		}
	})
	return nil
}

// answerPull decides as a source does about a peer that has connected.
func (r *Resource) answerPull(s *session, number uint64, theirs hello) error {
	l := r.links[s.peer]
	if l == nil || l.session != s || r.adopted.Primary != s.peer || r.local == nil || r.detached {
		return fmt.Errorf("%s wants to be brought up to date by a node that can't", s.peer)
	}
	conf := r.adopted
	decision := decideSource(sourceFacts{configuration: &conf, peer: theirs, slot: l.slot, selfInSync: conf.inSync(r.cfg.Node),
		local: r.superblock(), dirty: r.local.store.DirtyBlocks(l.slot)})
	r.emit("resync", s.peer, decision.action.String(), decision.reason)
	h := Header{Type: FramePullStart, Seq: number, Generation: conf.Generation}
	switch decision.action {
	case actionFull:
		h.Flags = FlagFull
	case actionBitmap:
	default:
		h.Flags = FlagFailed
		s.sendFrame(h, []byte(reasonText(decision.reason)))
		return nil
	}
	s.sendFrame(h, nil)
	return s.sendBitmap(r.local.store)
}

// pullStarted takes the peer's decision; its bitmap follows. An answer to an earlier request is one that another disk made, or
// a session that is over: its bitmap says of more blocks that they are to be copied, which does no harm.
func (s *session) pullStarted(h *Header, payload []byte) error {
	v := s.volume
	v.mu.Lock()
	local, asked := v.local, s.resync.role == resyncPull && s.resync.pull == h.Seq && !s.resync.running
	s.resync.answered = asked && h.Flags&FlagFailed == 0
	v.mu.Unlock()
	switch {
	case !asked || local == nil:
		return nil
	case h.Flags&FlagFailed != 0:
		reason := reasonText(string(payload))
		s.resource.post(func() { s.resource.pullRefused(s, reason) })
	case h.Flags&FlagFull != 0:
		local.store.SetAll(s.slot)
	}
	return nil
}

func (r *Resource) pullRefused(s *session, reason string) {
	if r.pull != nil && r.pull.session == s {
		r.pull.refused = reason
		r.emit("resync", s.peer, "refused", reason)
	}
}

// pullReady: the bits of both sides are here, and durable.
func (s *session) pullReady() error {
	v := s.volume
	v.mu.Lock()
	if v.local == nil {
		v.mu.Unlock()
		return ErrDiskFailed
	}
	st := &s.resync
	st.running, st.cursor = true, 0
	s.observeLocked()
	st.total = v.local.store.DirtyBlocks(s.slot) * bitmap.BlockBytes
	v.mu.Unlock()
	s.wakePace()
	s.resource.post(func() {
		s.resource.emit("resync", s.peer, "running", fmt.Sprintf("%d KiB are copied to the disk of this node", st.total/1024))
	})
	return nil
}

// askOwnLocked queues for the range of f.
func (s *session) askOwnLocked(f *flight, seq uint64) {
	v := s.volume
	r := v.getRequest(opPull, f.off, f.n)
	r.source, r.seq, r.held = s, seq, v.local
	r.payload = v.buffers.get(int(f.n))
	r.p = r.payload.p
	if v.ranges.lock(&r.entry) {
		v.resumeOnWorker(r, phaseEnter)
	}
}

// startPull asks the peer for r's range, which is locked.
func (v *Volume) startPull(r *request) {
	s := r.source
	v.mu.Lock()
	if s.closed || v.local != r.held || v.localDead || s.resync.role != resyncPull {
		v.releaseLocked(r, nil)
		return
	}
	s.sendReadLocked(r)
	v.mu.Unlock()
	s.dataWriter.Flush()
}

// dropPull gives r up: its session has ended.
func (v *Volume) dropPull(r *request) {
	v.mu.Lock()
	v.releaseLocked(r, nil)
}

// pullArrived hands what the peer has to a worker. The session does not end before it is on the disk: who reads or writes
// the range after a change of the Primary must not be overtaken.
func (v *Volume) pullArrived(r *request) {
	v.mu.Lock()
	r.source.applying++
	r.source.receivedBytes.Add(r.lengthBytes)
	if v.outside != 0 && v.local != nil {
		v.local.store.Set(v.outside, r.offsetBytes, r.lengthBytes)
	}
	v.mu.Unlock()
	v.resumeOnWorker(r, phaseLocal)
}

// storePull writes what the peer has.
func (v *Volume) storePull(r *request, local *localDisk) {
	s := r.source
	written := false
	if local != nil && local == r.held {
		c := change{op: opWrite, resynced: true, p: r.p, off: int64(r.offsetBytes), n: int64(r.lengthBytes)}
		if allZero(r.p) {
			c.op = opTrim
		}
		err := local.watch.bounded("a write of a resync", func() error { return c.apply(local.disk.disk) })
		r.abandoned = err != nil && local.watch.over() != nil
		if written = err == nil; !written {
			v.failed(local, err)
		}
	}
	v.mu.Lock()
	if written && !s.closed && v.local == r.held && s.resync.role == resyncPull {
		s.pieceWrittenLocked(r.seq, r.lengthBytes)
	}
	v.touched = true
	v.releaseLocked(r, nil)
	s.applied()
}

// pullScanned: every block was copied, durably. What is left came up meanwhile.
func (r *Resource) pullScanned(s *session) {
	if r.pull == nil || r.pull.session != s || r.pull.local != r.local || !r.serving || r.detached {
		return
	}
	l := r.links[s.peer]
	if left := r.local.store.DirtyBlocks(l.slot); left > 0 {
		r.volume.mu.Lock()
		st := &s.resync
		st.cursor, st.asked, st.scanned = 0, false, false
		r.volume.mu.Unlock()
		s.wakePace()
		return
	}
	r.selfAdding = true
}

// endPull forgets the pull of a session, or whichever there is.
func (r *Resource) endPull(s *session) {
	if r.pull == nil || s != nil && r.pull.session != s {
		return
	}
	r.volume.mu.Lock()
	r.pull.session.resync.role, r.pull.session.resync.running = resyncNone, false
	r.volume.mu.Unlock()
	r.pull = nil
}
