package replication

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
)

// writeLocal does the local leg of r: at once when that can hardly block, else on a worker.
func (v *Volume) writeLocal(r *request, b Batch) {
	if r.lengthBytes <= inlineBytes && (!r.fua || b == nil || !b.More()) {
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
	if r.op == opResyncRead {
		v.mu.Unlock()
		r.origin.answer(r, local, dead)
		return
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
	if local != nil {
		if err := r.applyUnlessThere(local.disk); err != nil {
			v.localError(r, err)
			return
		}
		if r.resynced {
			startWriteback(local.disk, r)
		}
	}
	v.legDone(r, b)
}

// startWriteback sees to it that the disk is busy while a resync goes on, and not only with the flush at its end.
func startWriteback(disk Disk, r *request) {
	if d, ok := disk.(interface{ StartWriteback(off, n int64) }); ok && r.op == opWrite {
		d.StartWriteback(int64(r.offsetBytes), int64(r.lengthBytes))
	}
}

// applyUnlessThere spares a resync the zeroing of a hole.
func (r *request) applyUnlessThere(disk Disk) error {
	if r.resynced && r.op == opTrim && isHole(disk, r.offsetBytes, r.lengthBytes) {
		return nil
	}
	return r.apply(disk)
}

// localError keeps r and tells the control loop.
func (v *Volume) localError(r *request, err error) {
	v.stats.localErrors.Add(1)
	v.keepStuck(r, phaseLocal)
	v.failed(err)
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

// apply does what r asks for on disk. TRIM leaves zeroes on every replica, so that replicas stay identical.
func (r *request) apply(disk Disk) error {
	off, n := int64(r.offsetBytes), int64(r.lengthBytes)
	var err error
	switch {
	case r.op == opWrite && r.fua:
		_, err = disk.WriteDurableAt(r.p, off)
	case r.op == opWrite:
		_, err = disk.WriteAt(r.p, off)
	case r.op == opTrim:
		err = disk.Punch(off, n)
	case r.op == opZero:
		err = disk.Zero(off, n)
	}
	if err == nil && r.fua && r.op != opWrite {
		err = disk.Sync()
	}
	if err != nil {
		return fmt.Errorf("%d bytes at %d: %w", n, off, err)
	}
	return nil
}

// read serves a client's read, whose range is locked: no write that is not acknowledged everywhere overlaps it. From
// the page cache it is served at once; what would wait for the disk goes to a worker.
func (v *Volume) read(r *request, b Batch) {
	v.mu.Lock()
	local, dead := v.local, v.localDead
	v.mu.Unlock()
	if local != nil && !dead {
		if fast, ok := local.disk.(nowaitReader); ok {
			if n, err := fast.ReadNowaitAt(r.p, int64(r.offsetBytes)); err == nil && n == len(r.p) {
				v.finishRead(r, b)
				return
			}
		}
	}
	v.resumeOnWorker(r, phaseLocal)
}

// executeRead reads from the local disk, or through a peer when there is none.
func (v *Volume) executeRead(r *request, local *localDisk, b Batch) {
	if local == nil {
		v.readRemote(r)
		return
	}
	if _, err := local.disk.ReadAt(r.p, int64(r.offsetBytes)); err != nil {
		v.readFailed(r, fmt.Errorf("read %d bytes at %d: %w", len(r.p), r.offsetBytes, err))
		return
	}
	v.finishRead(r, b)
}

// readFailed gives the disk up when a peer can answer instead. Where no other copy is, the error is this request's alone:
// what else the disk holds is still wanted.
func (v *Volume) readFailed(r *request, err error) {
	v.mu.Lock()
	elsewhere := slices.ContainsFunc(v.legs, (*session).memberLocked)
	if !elsewhere {
		r.err = err
	}
	v.mu.Unlock()
	if elsewhere {
		v.localError(r, err)
		return
	}
	v.stats.localErrors.Add(1)
	v.logger.Error("read from the only copy", "error", err)
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

// finishRead ends a read. It was never started in an epoch.
func (v *Volume) finishRead(r *request, b Batch) {
	v.mu.Lock()
	if v.gate == gateFenced {
		r.err = ErrFenced
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
	if v.gate == gateSuspended {
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
