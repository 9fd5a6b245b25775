package replication

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
)

// writeLocal does the local leg of r: at once when that can hardly block, else on a worker.
func (v *Volume) writeLocal(r *request, b Batch) {
	if r.lengthBytes <= inlineBytes && !v.saves(r) && (!r.fua || b == nil || !b.More()) {
		v.executeLocal(r, b)
		return
	}
	v.resumeOnWorker(r, phaseLocal)
}

// executeLocal applies r to the local disk and counts the leg down. A leg that fails is kept until the configuration
// says how the volume goes on: without this disk, or with errors.
func (v *Volume) executeLocal(r *request, b Batch) {
	v.mu.Lock()
	local, dead := v.local, v.localDead
	if r.mutates() && !r.resynced && local != r.held {
		local, dead = nil, false // it was for a disk that is not there any more, or began before this one was
	}
	if r.op == opResyncRead {
		v.mu.Unlock()
		r.origin.answer(r, local, dead)
		return
	}
	if r.op == opPull {
		v.mu.Unlock()
		if dead {
			local = nil
		}
		v.storePull(r, local)
		return
	}
	if r.op == opRead && v.stale {
		local, dead = nil, false
	}
	if dead && r.op == opVerifyServe {
		local, dead = nil, false // an application need not wait for what becomes of these
	}
	if dead {
		v.keepStuckLocked(r, phaseLocal)
		return
	}
	v.mu.Unlock()
	switch r.op {
	case opRead:
		v.executeRead(r, local, b)
		return
	case opVerifyServe:
		v.serveVerify(r, local)
		return
	}
	switch {
	case local != nil:
		if err := v.saveFormer(r, local.disk); err != nil {
			v.dropUnsaved(r, err, b)
			return
		}
		if !v.applyLocal(r, local, b) {
			return
		}
	case r.origin != nil: // a peer that waits for this disk is told nothing
		v.mu.Lock()
		r.err = ErrDiskFailed
		v.mu.Unlock()
	}
	v.legDone(r, b)
}

// applyLocal writes r to the disk; false: it is not the caller's any more, and nothing is that came with it.
func (v *Volume) applyLocal(r *request, local *localDisk, b Batch) bool {
	op := &r.operation
	op.what, op.request, op.batch = "a write", r, b
	if !local.watch.begin(op) {
		v.localError(r, local, local.watch.over())
		return false
	}
	change := change{op: r.op, fua: r.fua, resynced: r.resynced, p: r.p, off: int64(r.offsetBytes), n: int64(r.lengthBytes)}
	err := change.apply(local.disk.disk)
	if !local.watch.end(op) {
		v.pool.returned(b)
		return false
	}
	if err != nil {
		v.localError(r, local, err)
		return false
	}
	return true
}

// startWriteback sees to it that the disk is busy while a resync goes on, and not only with the flush at its end.
func startWriteback(disk Disk, c *change) {
	if d, ok := disk.(interface{ StartWriteback(off, n int64) }); ok && c.op == opWrite {
		d.StartWriteback(c.off, c.n)
	}
}

// localError keeps r and tells the control loop.
func (v *Volume) localError(r *request, local *localDisk, err error) {
	v.stats.localErrors.Add(1)
	v.keepStuck(r, phaseLocal)
	v.failed(local, err)
}

// giveUp ends the use of a disk that holds operations: their requests are kept until it is known how they go on, as those
// are whose operation failed, and who did them is replaced.
func (v *Volume) giveUp(local *localDisk, cause error) {
	v.mu.Lock()
	if v.local == local {
		v.localDead = true
	}
	v.mu.Unlock()
	left, workers := local.watch.giveUp(cause)
	v.pool.relieve(workers)
	for _, r := range left {
		r.abandoned = true
		v.stats.localErrors.Add(1)
		v.keepStuck(r, phaseLocal)
	}
	v.failed(local, cause)
}

// keepStuck keeps a request whose local leg failed, before the phase it goes on with, until it is known how. The caller tells
// the control loop afterwards.
func (v *Volume) keepStuck(r *request, next phase) {
	v.mu.Lock()
	v.keepStuckLocked(r, next)
}

// keepStuckLocked does so, without a word to the control loop, for a caller that saw under the same lock that it has been
// told and has not settled yet; it unlocks v.mu. From the end of the volume on it is known how requests go on: not at all.
func (v *Volume) keepStuckLocked(r *request, next phase) {
	r.phase = next
	if !v.ended {
		v.localDead = true
		v.stuckLocal = append(v.stuckLocal, r)
		v.mu.Unlock()
		return
	}
	v.mu.Unlock()
	r.err = ErrFenced
	v.settle(r, true)
}

// end gives up every request whose local leg failed, now and from now on.
func (v *Volume) end() {
	v.mu.Lock()
	v.ended = true
	stuck := v.stuckLocal
	v.stuckLocal = nil
	v.mu.Unlock()
	for _, r := range stuck {
		r.err = ErrFenced
		v.settle(r, true)
	}
}

// change is what a request does to a disk. It stands for itself: should the disk keep it, the request goes on elsewhere.
type change struct {
	op            opcode
	fua, resynced bool
	p             []byte
	off, n        int64
}

// apply makes the change. TRIM leaves zeroes on every replica, so that replicas stay identical. A resync is spared the
// zeroing of a hole.
func (c *change) apply(disk Disk) error {
	var err error
	switch {
	case c.op == opWrite && c.fua:
		_, err = disk.WriteDurableAt(c.p, c.off)
	case c.op == opWrite:
		_, err = disk.WriteAt(c.p, c.off)
	case c.op == opTrim && c.resynced && isHole(disk, uint64(c.off), uint64(c.n)):
		return nil
	case c.op == opTrim:
		err = disk.Punch(c.off, c.n)
	case c.op == opZero:
		err = disk.Zero(c.off, c.n)
	}
	if err == nil && c.fua && c.op != opWrite {
		err = disk.Sync()
	}
	if err != nil {
		return fmt.Errorf("%d bytes at %d: %w", c.n, c.off, err)
	}
	if c.resynced {
		startWriteback(disk, c)
	}
	return nil
}

// read serves a client's read, whose range is locked: no write that is not acknowledged everywhere overlaps it. From
// the page cache it is served at once; what would wait for the disk goes to a worker.
func (v *Volume) read(r *request, b Batch) {
	v.mu.Lock()
	if v.gate != gateOpen && v.gate != gateFailing {
		v.turnBackLocked(r, b)
		return
	}
	v.reading++
	r.round = v.leaseRound
	local, dead := v.local, v.localDead || v.stale
	v.mu.Unlock()
	if local != nil && !dead {
		if n, err := local.disk.ReadNowaitAt(r.p, int64(r.offsetBytes)); err == nil && n == len(r.p) {
			v.finishRead(r, b)
			return
		}
	}
	v.resumeOnWorker(r, phaseLocal)
}

// turnBackLocked makes of a read that waited for its range, until the gate was closed, one that has not begun; it unlocks v.mu. Who gives
// the role up waits for the reads that have, and the range may have been held by a write that waits for the gate itself.
func (v *Volume) turnBackLocked(r *request, b Batch) {
	v.unlockRangeLocked(r)
	switch v.gate {
	case gateSuspended:
		v.parked = append(v.parked, r)
		v.mu.Unlock()
	case gateFenced:
		v.failLocked(r, ErrFenced, b)
	default:
		v.failLocked(r, ErrNotPrimary, b)
	}
}

// executeRead reads from the local disk, or through a peer when there is none.
func (v *Volume) executeRead(r *request, local *localDisk, b Batch) {
	if local == nil {
		v.readRemote(r)
		return
	}
	op := &r.operation
	op.what, op.request, op.batch = "a read", r, b
	if !local.watch.begin(op) {
		v.localError(r, local, local.watch.over())
		return
	}
	off, own := int64(r.offsetBytes), v.buffers.get(len(r.p)) // should the disk keep the read, a peer fills the client's buffer
	_, err := local.disk.disk.ReadAt(own.p, off)
	if !local.watch.end(op) {
		v.pool.returned(b)
		return
	}
	copy(r.p, own.p)
	v.buffers.put(own)
	if err != nil {
		v.readFailed(r, local, fmt.Errorf("read %d bytes at %d: %w", len(r.p), r.offsetBytes, err))
		return
	}
	v.finishRead(r, b)
}

// readFailed gives the disk up when a peer can answer instead. Where no other copy is, or the operator wants to be told, the
// error is this request's alone: what else the disk holds is still wanted.
func (v *Volume) readFailed(r *request, local *localDisk, err error) {
	v.mu.Lock()
	elsewhere := !v.passOn && slices.ContainsFunc(v.legs, (*session).memberLocked)
	if !elsewhere {
		r.err = err
	}
	v.mu.Unlock()
	if elsewhere {
		v.localError(r, local, err)
		return
	}
	v.stats.localErrors.Add(1)
	v.logger.Error("read", "error", err)
	v.finishRead(r, nil)
}

// errData ends a walk over extents.
var errData = errors.New("not a hole")

// isHole reports whether nothing is stored in the range, which therefore reads as zeroes.
func isHole(disk Disk, off, n uint64) bool {
	return disk.Extents(int64(off), int64(n), func(_ int64, hole bool) error {
		if !hole {
			return errData
		}
		return nil
	}) == nil
}

// finishRead ends a read, or keeps it until this node may answer. It was never started in an epoch.
func (v *Volume) finishRead(r *request, b Batch) {
	v.mu.Lock()
	switch {
	case v.deposedLocked():
		r.err = ErrFenced
	case r.err == nil && !v.mayReadLocked(r.round):
		v.keepReadLocked(r)
		v.mu.Unlock()
		return
	}
	v.releaseLocked(r, b)
}

// readRemote asks an in-sync peer; its ReadReply finishes r.
func (v *Volume) readRemote(r *request) {
	v.mu.Lock()
	for _, s := range v.legs {
		if s.memberLocked() {
			s.sendReadLocked(r)
			v.mu.Unlock()
			s.dataWriter.Flush()
			return
		}
	}
	if v.gate == gateSuspended || v.gate == gateOpen { // a session that is just ending closes the gate
		v.halted = append(v.halted, r)
		r.phase = phaseLocal
		v.mu.Unlock()
		return
	}
	r.err = ErrDiskFailed
	v.releaseLocked(r, nil)
}

// splitArgs is a range that may be longer than one step of the write path.
type splitArgs struct {
	off, n uint64
	fua    bool
}

// splitCompletion finishes a client's request when all of its pieces have finished.
type splitCompletion struct {
	left  atomic.Int32
	err   atomic.Pointer[error]
	whole Completion
}

// Complete counts one piece; the first error is the request's.
func (s *splitCompletion) Complete(b interface {
	Defer(f interface{ Flush() })
	More() bool
}, err error) {
	if err != nil {
		s.err.CompareAndSwap(nil, &err)
	}
	if s.left.Add(-1) > 0 {
		return
	}
	var first error
	if p := s.err.Load(); p != nil {
		first = *p
	}
	s.whole.Complete(b, first)
}

// submitSplit submits a trim or zero in pieces of at most maxRequestBytes, each within the bound of one frame.
func (v *Volume) submitSplit(op opcode, args splitArgs, b Batch, c Completion) {
	if args.n > maxRequestBytes {
		whole := &splitCompletion{whole: c}
		whole.left.Store(int32((args.n + maxRequestBytes - 1) / maxRequestBytes))
		c = whole
	}
	for args.n > maxRequestBytes {
		v.submitPiece(op, splitArgs{off: args.off, n: maxRequestBytes, fua: args.fua}, b, c)
		args.off, args.n = args.off+maxRequestBytes, args.n-maxRequestBytes
	}
	v.submitPiece(op, args, b, c)
}

func (v *Volume) submitPiece(op opcode, args splitArgs, b Batch, c Completion) {
	r := v.getRequest(op, args.off, args.n)
	r.completion, r.fua = c, args.fua
	v.submitClient(r, b)
}
