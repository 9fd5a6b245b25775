package replication

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"duet/bitmap"
)

// maxRequestBytes is the largest range that takes one step through the write path; longer trims are split.
const maxRequestBytes = 64 << 20

// inlineBytes is the largest local write that the submitting goroutine does itself: into the page cache it costs less
// than waking a worker.
const inlineBytes = 64 << 10

// gate says what happens to requests of clients. It is derived from the resource's state by Resource.wantedGate.
type gate uint8

const (
	gateRefused   gate = iota // not Primary: an error
	gateOpen                  // served
	gateSuspended             // parked until it opens, or until the role is lost
	gateFailing               // the last in-sync disk failed: writes and flushes fail, reads may work
	gateFenced                // the role was lost: nothing is answered any more
)

// String names the gate for logs.
func (g gate) String() string {
	return [...]string{"refused", "open", "suspended", "failing", "fenced"}[g]
}

// localDisk is the attached replica of this node.
type localDisk struct {
	disk  *watchedDisk
	store *bitmap.Store
	watch *diskWatch
}

// Volume is the block device that a resource replicates: the write path of a Primary and the apply path of a
// Secondary. It satisfies the device interface of the NBD server.
//
// One mutex guards all of its state. It is held for table work only, never across I/O, a socket or a callback.
// Requests are driven by the goroutines that already run: a client's reader submits and writes locally, a peer's
// acknowledgement reader completes.
type Volume struct {
	sizeBytes atomic.Uint64 // grows when a configuration says so
	logger    *slog.Logger
	pool      *workerPool
	buffers   bufferPool
	requests  sync.Pool
	// failed tells the control loop that a local disk refused an operation; it must not block.
	failed func(local *localDisk, err error)
	// settled tells the control loop that nothing is under way any more; it must not block.
	settled func()
	// activityLogFull tells the control loop that cold extents wait for room; it must not block.
	activityLogFull func()

	born     time.Time
	metering atomic.Int32 // how many resyncs want the application's writes timed
	latency  latencyMeter
	// undo is where a replica that is given up saves what is about to be overwritten; nil: nothing has to be saved.
	undo    atomic.Pointer[undoStore]
	hasLegs atomic.Bool // mirrors len(legs) > 0, so that checksums are computed outside the mutex only when needed

	mu         sync.Mutex
	gate       gate
	local      *localDisk // nil: diskless
	localDead  bool       // the disk failed; operations on it are held in stuckLocal until the configuration says how to go on
	generation uint64     // tags every message of a Primary
	ackDurable bool
	passOn     bool            // OnIOErrorPassOn
	stale      bool            // the Primary's own disk lacks writes: it gets new ones, and nothing is read from it
	legs       []*session      // who gets each write, and must acknowledge it; replaced, never changed in place
	outside    bitmap.SlotMask // the other replicas that do not get the writes
	others     bitmap.SlotMask // all other replicas
	members    bitmap.SlotMask // the other replicas that are in sync
	adding     bitmap.SlotMask // those whose admission may have been committed
	ranges     rangeLock
	log        transferLog
	parked     []*request    // submitted while suspended; hold nothing
	halted     []*request    // suspended before their start; hold range and extents
	stuckLocal []*request    // their local leg failed
	unleased   []*request    // reads whose data were read, and must not be answered yet
	reading    int           // reads that have passed the gate
	ended      bool          // nothing is waited for any more
	settling   bool          // the control loop waits until nothing is under way
	turnedAway bool          // no client may begin any more, until this node is Primary anew
	gateMoved  chan struct{} // closed, and made anew, when the gate moves

	epoch     uint64   // the open epoch
	inOpen    int      // started and unfinished requests of the open epoch
	inClosing int      // of earlier epochs
	barrier   *barrier // the one in progress, nil for none
	flushes   []*request
	wanted    bool // another barrier is to follow the one in progress
	stable    uint64
	marked    bool      // a Secondary's: its bits say where it differs, and stay until it is in sync
	spilled   uint64    // a Secondary's: through this epoch unstable ranges were made bits, to make room in the activity log
	touched   bool      // something was written since the last look
	unsealed  bool      // something may have been written here, or elsewhere by this Primary, that no barrier covers
	sealedAt  time.Time // when the last barrier began

	leases      LeaseConfig
	leaseRound  uint64        // the newest that was asked for
	leaseWanted chan struct{} // holds one while a read waits
	given       givenLease    // to the Primary that this node serves

	resyncs resyncOptions

	applied sync.Cond // a session's last request was applied

	stats volumeStats
}

// volumeStats counts; all fields are atomic so that status needs no lock.
type volumeStats struct {
	readBytes, writtenBytes   atomic.Uint64
	reads, writes, flushes    atomic.Uint64
	barriers, coldWrites      atomic.Uint64
	upperPending, localErrors atomic.Int64
}

// newVolume makes a volume that refuses all requests.
func newVolume(sizeBytes uint64, workers int, logger *slog.Logger) *Volume {
	v := &Volume{logger: logger, pool: newWorkerPool(workers), epoch: 1, born: time.Now(),
		failed: func(*localDisk, error) {}, activityLogFull: func() {}, settled: func() {}, gateMoved: make(chan struct{}), leaseWanted: make(chan struct{}, 1)}
	v.applied.L = &v.mu
	v.sizeBytes.Store(sizeBytes)
	return v
}

// SizeBytes is the size of the device.
func (v *Volume) SizeBytes() uint64 { return v.sizeBytes.Load() }

// Read fills p from off on.
func (v *Volume) Read(p []byte, off uint64, b Batch, c Completion) {
	r := v.getRequest(opRead, off, uint64(len(p)))
	r.p, r.completion = p, c
	v.submitClient(r, b)
}

// Write stores p at off; p stays untouched until the completion. With fua it is on stable media of every in-sync
// replica before it completes.
func (v *Volume) Write(p []byte, off uint64, fua bool, b Batch, c Completion) {
	r := v.getRequest(opWrite, off, uint64(len(p)))
	r.p, r.completion, r.fua = p, c, fua
	v.submitClient(r, b)
}

// Flush completes when every write that completed before is on stable media of every in-sync replica.
func (v *Volume) Flush(b Batch, c Completion) {
	r := v.getRequest(opFlush, 0, 0)
	r.completion = c
	v.submitClient(r, b)
}

// Trim makes the range read as zeroes on all replicas and may free its space.
func (v *Volume) Trim(off, n uint64, fua bool, b Batch, c Completion) {
	v.submitSplit(opTrim, splitArgs{off: off, n: n, fua: fua}, b, c)
}

// Zero makes the range read as zeroes; with noHole its space stays allocated. A fast zero is refused when it would
// have to write.
func (v *Volume) Zero(off, n uint64, fua, noHole, _ bool, b Batch, c Completion) {
	op := opTrim
	if noHole {
		op = opZero
	}
	v.submitSplit(op, splitArgs{off: off, n: n, fua: fua}, b, c)
}

// Cache is a hint that this device does not need.
func (v *Volume) Cache(_, _ uint64, b Batch, c Completion) { c.Complete(b, nil) }

// Extents reports holes and data of the local disk, or all data when there is none.
func (v *Volume) Extents(_ context.Context, off, n uint64, emit func(n uint64, hole, zero bool) error) error {
	v.mu.Lock()
	local, state, stale := v.local, v.gate, v.stale
	v.mu.Unlock()
	if state == gateRefused || state == gateFenced {
		return ErrNotPrimary
	}
	if local == nil || stale {
		return emit(n, false, false)
	}
	return local.disk.Extents(int64(off), int64(n), func(run int64, hole bool) error {
		return emit(uint64(run), hole, hole)
	})
}

// submitClient counts r and takes its first step.
func (v *Volume) submitClient(r *request, b Batch) {
	v.stats.upperPending.Add(1)
	if v.metering.Load() > 0 && r.mutates() {
		r.began = time.Since(v.born)
	}
	if r.op != opFlush && r.lengthBytes == 0 {
		v.complete(r, b)
		return
	}
	v.submit(r, b)
}

// submit passes the gate and locks the range. A request that has to wait holds nothing but its place in the queue.
func (v *Volume) submit(r *request, b Batch) {
	v.mu.Lock()
	switch v.gate {
	case gateOpen:
	case gateSuspended:
		v.parked = append(v.parked, r)
		v.mu.Unlock()
		return
	case gateFailing:
		if r.op != opRead {
			v.failLocked(r, ErrDiskFailed, b)
			return
		}
	case gateRefused:
		v.failLocked(r, ErrNotPrimary, b)
		return
	case gateFenced:
		v.failLocked(r, ErrFenced, b)
		return
	}
	if r.op == opFlush {
		v.flushes = append(v.flushes, r)
		send := v.wantBarrierLocked()
		v.mu.Unlock()
		flushWriters(send)
		return
	}
	held := v.ranges.lock(&r.entry)
	v.mu.Unlock()
	if held {
		v.enter(r, b)
	}
}

// failLocked completes r, which holds nothing, with err and unlocks v.mu.
func (v *Volume) failLocked(r *request, err error, b Batch) {
	r.err = err
	v.mu.Unlock()
	v.complete(r, b)
}

// enter takes the extents of r, which holds its range. A hot extent costs nothing; a cold one is made durable in the
// activity log first, by the log's own loop, and r goes on from there on a worker.
func (v *Volume) enter(r *request, b Batch) {
	switch r.op {
	case opRead:
		v.read(r, b)
		return
	case opResyncRead:
		v.resumeOnWorker(r, phaseLocal)
		return
	case opVerify:
		v.startVerify(r)
		return
	case opPull:
		v.startPull(r)
		return
	}
	v.mu.Lock()
	local := v.local
	r.held = local
	v.mu.Unlock()
	if local == nil || sabotageSkipActivityLog {
		v.start(r, b)
		return
	}
	first, last := r.extents()
	if local.store.TryAcquire(first, last) {
		v.start(r, b)
		return
	}
	v.stats.coldWrites.Add(1)
	local.store.Acquire(first, last, func(err error) { v.logged(r, err) })
}

// logged goes on with a request whose extents were cold; it runs on the activity log's loop.
func (v *Volume) logged(r *request, err error) {
	next := phaseStart
	if r.origin != nil {
		next = phaseApply
	}
	if err != nil {
		v.logger.Error("activity log", "error", err)
		local := r.held
		r.held = nil // its extents were not got
		v.keepStuck(r, next)
		v.failed(local, err)
		return
	}
	v.resumeOnWorker(r, next)
}

// start sends r to every leg and does the local leg. From here on r is in the transfer log. A request that finds the
// gate closed keeps what it holds and waits; the order of overlapping writes is already fixed.
func (v *Volume) start(r *request, b Batch) {
	if v.hasLegs.Load() && r.op == opWrite {
		r.payloadCRC = payloadChecksum(r.p)
	}
	v.mu.Lock()
	if v.gate != gateOpen {
		v.haltLocked(r, b)
		return
	}
	if v.local != nil && r.held != v.local { // attached since: it gets this write, too
		v.mu.Unlock()
		r.releaseExtents()
		v.enter(r, b)
		return
	}
	if v.ackDurable {
		r.fua = true
	}
	r.epoch = v.epoch
	v.inOpen++
	v.recordLocked(r)
	legs := v.legs
	if sabotageAckEarly {
		r.legs.Store(1)
	} else {
		r.legs.Store(int32(len(legs)) + 1)
	}
	for _, s := range legs {
		s.sendRequestLocked(r)
	}
	v.mu.Unlock()
	if r.lengthBytes > inlineBytes { // a worker writes while this goroutine sends; r lives on, its legs are not sent yet
		v.writeLocal(r, b)
		flushLegs(legs, b)
		return
	}
	flushLegs(legs, b)
	v.writeLocal(r, b)
}

func flushLegs(legs []*session, b Batch) {
	for _, s := range legs {
		flushOrDefer(b, s.dataWriter)
	}
}

// haltLocked keeps r, which holds range and extents, until the gate opens; it unlocks v.mu.
func (v *Volume) haltLocked(r *request, b Batch) {
	if v.gate == gateSuspended {
		v.halted = append(v.halted, r)
		v.mu.Unlock()
		return
	}
	if r.err = ErrFenced; v.gate == gateFailing {
		r.err = ErrDiskFailed
	}
	v.releaseLocked(r, b)
}

// recordLocked enters r's range in the transfer log, whose extents stay hot until the range is stable everywhere, and
// sets the bits of the replicas that do not get the write.
func (v *Volume) recordLocked(r *request) {
	v.touched, v.unsealed = true, true
	if v.local == nil || r.held != v.local || sabotageSkipActivityLog {
		return
	}
	store := v.local.store
	v.log.record(r.epoch, r.offsetBytes, r.lengthBytes, func(extent uint32) { store.Retain(extent, extent) })
	if v.outside != 0 && !sabotageNoOutsideBits {
		store.Set(v.outside, r.offsetBytes, r.lengthBytes)
	}
}

// legDone counts one leg of r down; the last one finishes r.
func (v *Volume) legDone(r *request, b Batch) {
	if r.legs.Add(-1) == 0 {
		v.finish(r, b)
	}
}

// finish ends a started request: its epoch, its range, its extents, then the reply.
func (v *Volume) finish(r *request, b Batch) {
	switch {
	case r.resynced:
		v.resyncWritten(r)
		return
	case r.op == opVerify:
		v.finishVerify(r, b)
		return
	}
	v.mu.Lock()
	send := v.leaveEpochLocked(r)
	if r.origin != nil {
		v.finishApplyLocked(r, b)
	} else {
		v.releaseLocked(r, b)
	}
	flushWriters(send)
}

// leaveEpochLocked counts r out of its epoch, which a barrier may be waiting for.
func (v *Volume) leaveEpochLocked(r *request) []*frameWriter {
	if r.epoch == v.epoch {
		v.inOpen--
		v.tellSettledLocked()
		return nil
	}
	v.inClosing--
	defer v.tellSettledLocked()
	return v.advanceBarrierLocked()
}

// settledLocked reports whether every request that was started has finished, and no barrier is in progress.
func (v *Volume) settledLocked() bool {
	return v.inOpen+v.inClosing == 0 && v.barrier == nil && v.reading == 0
}

// tellSettledLocked wakes the control loop, once, if that is what it waits for.
func (v *Volume) tellSettledLocked() {
	if v.settling && v.settledLocked() {
		v.settling = false
		v.settled()
	}
}

// turnAway lets no request and no client begin any more, before those that there are get cut off: one that came in between would be
// told that this node is not Primary instead of finding the new one. It reports whether requests went through.
func (v *Volume) turnAway() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.turnedAway = true
	if v.gate != gateOpen && v.gate != gateFailing {
		return false
	}
	v.gate = gateSuspended
	return true
}

// moveGateLocked moves the gate and wakes who waits for that.
func (v *Volume) moveGateLocked(to gate) {
	v.gate = to
	close(v.gateMoved)
	v.gateMoved = make(chan struct{})
}

// releaseLocked gives back what r holds, lets the requests behind it go on, unlocks v.mu and completes r.
func (v *Volume) releaseLocked(r *request, b Batch) {
	v.unlockRangeLocked(r)
	if r.op == opRead {
		v.reading--
		v.tellSettledLocked()
	}
	v.mu.Unlock()
	r.releaseExtents()
	v.complete(r, b)
}

// releaseExtents gives back the extents that r holds, if it does.
func (r *request) releaseExtents() {
	if held := r.held; held != nil && r.mutates() && !sabotageSkipActivityLog {
		first, last := r.extents()
		held.store.Release(first, last)
	}
	r.held = nil
}

// unlockRangeLocked lets the requests go on that wait for r's range.
func (v *Volume) unlockRangeLocked(r *request) {
	for _, entry := range v.ranges.unlock(&r.entry) {
		v.resumeOnWorker(entry.owner, phaseEnter)
	}
}

// complete answers r, which holds nothing any more.
func (v *Volume) complete(r *request, b Batch) {
	completion, err := r.completion, r.err
	if keeper, ok := completion.(interface{ KeepBuffer() }); ok && r.abandoned && r.mutates() {
		keeper.KeepBuffer() // the operation that did not return may still read it
	}
	if r.began > 0 && err == nil {
		v.latency.add(time.Since(v.born) - r.began)
	}
	v.count(r)
	v.putRequest(r)
	if completion != nil {
		v.stats.upperPending.Add(-1)
		completion.Complete(b, err)
	}
}

func (v *Volume) count(r *request) {
	switch {
	case r.err != nil || r.completion == nil:
	case r.op == opRead:
		v.stats.reads.Add(1)
		v.stats.readBytes.Add(r.lengthBytes)
	case r.op == opFlush:
		v.stats.flushes.Add(1)
	default:
		v.stats.writes.Add(1)
		v.stats.writtenBytes.Add(r.lengthBytes)
	}
}

// unmark: the replica is in sync, and its bits are clear.
func (v *Volume) unmark() {
	v.mu.Lock()
	v.marked = false
	v.mu.Unlock()
}

// close waits for the workers; no request may be submitted any more.
func (v *Volume) close() { v.pool.close() }

// Left describes the requests that are not finished, "" if there are none.
func (v *Volume) Left() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	pending := v.stats.upperPending.Load()
	if pending == 0 && v.inOpen+v.inClosing == 0 {
		return ""
	}
	return fmt.Sprintf("gate %s, %d of clients, %d started in the open epoch, %d before, %d parked, %d halted, %d stuck, %d flushes, barrier %+v, %d ranges locked",
		v.gate, pending, v.inOpen, v.inClosing, len(v.parked), len(v.halted), len(v.stuckLocal), len(v.flushes), v.barrier, v.ranges.entries)
}
