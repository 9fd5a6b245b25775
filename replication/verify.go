package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"duet/bitmap"
)

// A verification compares this Primary's disk with those of the in-sync peers while the device is used. Each range is
// locked, as a resync locks it, from before anybody reads it until all have answered; so nothing of it is in flight, and
// all read the same version of it. What differs is looked at once more, under a new lock, before it counts.

const (
	// verifyWindow is how many ranges a verification has in flight: memory, workers and locks are bounded by it.
	verifyWindow = 4
	// verifyFeature is the name of its frames in Hello.
	verifyFeature = "verify"
	// maxVerifyRanges is how many differing ranges of a peer are named.
	maxVerifyRanges = 1000
	// MinVerifyRate is the slowest verification: a range every few seconds still ends some day.
	MinVerifyRate = 64 << 10
)

var (
	errVerifyStopped   = errors.New("stopped")
	errVerifyCancelled = errors.New("cancelled by the operator")
)

// VerifyOptions say how to verify.
type VerifyOptions struct {
	Repair         bool   // copy what differs from this node, by a resync
	BytesPerSecond uint64 // of each replica that are read at most; 0: no limit
}

// verification is one comparison. Its loop owns the position; what else is shared is said below.
type verification struct {
	volume  *Volume
	run     uint64
	options VerifyOptions
	peers   []*verifyPeer
	limit   time.Duration // for an answer
	ctx     context.Context
	stop    context.CancelCauseFunc
	// finished returns the ranges; there is room for all in flight.
	finished chan *verifyRange

	// The loop's.
	cursor uint64         // where nobody has looked yet
	again  []*verifyRange // to be looked at a second time
	detail []span         // no holes: to be hashed in pieces
	due    time.Time      // when the next range may be read

	// Guarded by Volume.mu.
	compared uint64 // bytes
	stopped  bool   // no range is begun any more

	// The control loop's.
	state        VerifyState
	reason       string
	began, ended time.Time
}

// verifyPeer is one of the peers that are compared with.
type verifyPeer struct {
	session   *session
	different differenceSet // guarded by Volume.mu
	left      bool          // the control loop's: it has left the in-sync set to be repaired
	repaired  bool          // the control loop's
}

// loop drives the verification. A finished range, the pace and a coarse timer wake it; it ends when everything has been
// compared or with the first reason to stop, and tells the control loop.
func (y *verification) loop(r *Resource) {
	err := y.compareAll()
	y.volume.mu.Lock()
	y.stopped = true
	y.volume.mu.Unlock()
	y.abandon()
	r.post(func() { r.verifyCompared(y, err) })
}

func (y *verification) compareAll() error {
	watch := time.NewTicker(y.limit / 4)
	defer watch.Stop()
	flying := 0
	for {
		wait, more := y.fill(&flying)
		if flying == 0 && !more {
			return nil
		}
		if err := y.step(wait, &flying, watch.C); err != nil {
			return err
		}
	}
}

// fill begins as many ranges as window and pace allow. With more there is something left to begin, in wait if that is
// not 0.
func (y *verification) fill(flying *int) (wait time.Duration, more bool) {
	for *flying < verifyWindow {
		if wait := time.Until(y.due); wait > 0 && y.left() {
			return wait, true
		}
		w := y.next()
		if w == nil {
			return 0, false
		}
		y.submit(w)
		*flying++
	}
	return 0, y.left()
}

// step waits for whatever comes first.
func (y *verification) step(wait time.Duration, flying *int, watch <-chan time.Time) error {
	var turn <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		turn = timer.C
	}
	select {
	case w := <-y.finished:
		*flying--
		return y.took(w)
	case <-turn:
		return nil
	case <-watch:
		return y.overdue()
	case <-y.ctx.Done():
		return context.Cause(y.ctx)
	}
}

func (y *verification) left() bool {
	return len(y.again) > 0 || len(y.detail) > 0 || y.cursor < y.volume.sizeBytes.Load()
}

// next takes the range that is to be looked at now, nil when there is none.
func (y *verification) next() *verifyRange {
	switch {
	case len(y.again) > 0:
		w := y.again[0]
		y.again = y.again[1:]
		return y.rangeOf(span{w.off, w.n}, w.differs)
	case len(y.detail) > 0:
		s := &y.detail[0]
		piece := span{s.off, min(s.n, MaxVerifyBytes)}
		if s.off, s.n = s.off+piece.n, s.n-piece.n; s.n == 0 {
			y.detail = y.detail[1:]
		}
		return y.rangeOf(piece, nil)
	case y.cursor < y.volume.sizeBytes.Load():
		piece := span{y.cursor, y.stepBytes()}
		y.cursor += piece.n
		return y.rangeOf(piece, nil)
	}
	return nil
}

// stepBytes is how far to go from the cursor at once: further where nothing is stored here, as far as can be told without
// the lock. Whether it is so is looked at again under the lock.
func (y *verification) stepBytes() uint64 {
	left := y.volume.sizeBytes.Load() - y.cursor
	y.volume.mu.Lock()
	local := y.volume.local
	y.volume.mu.Unlock()
	if local == nil || left <= MaxVerifyBytes {
		return min(left, MaxVerifyBytes)
	}
	hole := uint64(0)
	probe := min(left, MaxVerifyHoleBytes)
	err := local.disk.Extents(int64(y.cursor), int64(probe), func(n int64, isHole bool) error {
		if !isHole {
			return errData
		}
		hole += uint64(n)
		return nil
	})
	if err != nil && !errors.Is(err, errData) {
		hole = 0 // reading will tell
	}
	return max(hole/MaxVerifyBytes*MaxVerifyBytes, min(left, MaxVerifyBytes))
}

// rangeOf makes the range and moves the pace on by what it costs to read.
func (y *verification) rangeOf(s span, first []blockMask) *verifyRange {
	if rate := y.options.BytesPerSecond; rate > 0 && s.n <= MaxVerifyBytes {
		if now := time.Now(); y.due.Before(now) {
			y.due = now
		}
		y.due = y.due.Add(time.Duration(float64(s.n) / float64(rate) * float64(time.Second)))
	}
	return &verifyRange{of: y, off: s.off, n: s.n, first: first, theirs: make([]rangeContent, len(y.peers))}
}

// submit queues for the lock of the range; whoever gives it goes on with startVerify.
func (y *verification) submit(w *verifyRange) {
	v := y.volume
	r := v.getRequest(opVerify, w.off, w.n)
	r.verify = w
	v.mu.Lock()
	held := v.ranges.lock(&r.entry)
	v.mu.Unlock()
	if held {
		v.resumeOnWorker(r, phaseEnter)
	}
}

// took notes what a look at a range has shown.
func (y *verification) took(w *verifyRange) error {
	if err := w.failure(); err != nil {
		if y.ctx.Err() != nil {
			return context.Cause(y.ctx) // it knows better
		}
		return err
	}
	switch {
	case w.pieces:
		y.detail = append(y.detail, span{w.off, w.n})
		return nil
	case w.differs != nil && w.first == nil:
		y.again = append(y.again, w)
		return nil
	}
	y.volume.mu.Lock()
	defer y.volume.mu.Unlock()
	y.compared += w.n
	for i := range w.differs {
		w.differs[i].and(&w.first[i])
		w.differs[i].runs(func(first, count int) {
			y.peers[i].different.add(w.off+uint64(first)*bitmap.BlockBytes, uint64(count)*bitmap.BlockBytes)
		})
	}
	return nil
}

// overdue names a peer that keeps a range locked for too long.
func (y *verification) overdue() error {
	y.volume.mu.Lock()
	defer y.volume.mu.Unlock()
	for _, p := range y.peers {
		for _, ask := range p.session.verify.asked {
			if time.Since(ask.since) > y.limit {
				return fmt.Errorf("%s has not answered for %v", p.session.peer, y.limit)
			}
		}
	}
	return nil
}

// abandon gives up the answers that are outstanding, and with them the locks.
func (y *verification) abandon() {
	var given []verifyAsk
	y.volume.mu.Lock()
	for _, p := range y.peers {
		for seq, ask := range p.session.verify.asked {
			if ask.request.verify.of == y {
				given = append(given, ask)
				delete(p.session.verify.asked, seq)
			}
		}
	}
	y.volume.mu.Unlock()
	for _, ask := range given {
		ask.answer(rangeContent{err: errVerifyStopped})
	}
}

// Verify begins to compare this Primary's disk with those of the in-sync peers.
func (r *Resource) Verify(ctx context.Context, options VerifyOptions) (VerifyStatus, error) {
	var st VerifyStatus
	var refusal error
	err := r.call(ctx, func() {
		if refusal = r.startVerify(options); refusal == nil {
			st = r.verifyStatus()
		}
	})
	return st, errors.Join(err, refusal)
}

// CancelVerify ends the comparison of this run, 0 for whichever it is. A repair that has begun goes on.
func (r *Resource) CancelVerify(ctx context.Context, run uint64) error {
	var refusal error
	err := r.call(ctx, func() {
		switch y := r.verify; {
		case y == nil || run != 0 && run != y.run || y.state != VerifyRunning && y.state != VerifyRepairing:
			refusal = fmt.Errorf("%w: that verify is over", ErrRefused)
		case y.state == VerifyRepairing:
			refusal = fmt.Errorf("%w: the comparison is over and the repair has begun; the resync goes on", ErrRefused)
		default:
			y.stop(errVerifyCancelled)
		}
	})
	return errors.Join(err, refusal)
}

// startVerify refuses what can't work, and starts the loop.
func (r *Resource) startVerify(options VerifyOptions) error {
	if y := r.verify; y != nil && (y.state == VerifyRunning || y.state == VerifyRepairing) {
		return fmt.Errorf("%w: a verify is %s already", ErrRefused, y.state)
	}
	if options.BytesPerSecond != 0 && options.BytesPerSecond < MinVerifyRate {
		return fmt.Errorf("%w: a rate of %d bytes per second, at least %d are possible", ErrRefused, options.BytesPerSecond, MinVerifyRate)
	}
	peers, err := r.verifiable()
	if err != nil {
		return err
	}
	y := &verification{volume: r.volume, options: options, peers: peers, limit: r.cfg.Timing.AckTimeout,
		finished: make(chan *verifyRange, verifyWindow), state: VerifyRunning, began: time.Now(), run: 1}
	if r.verify != nil {
		y.run = r.verify.run + 1
	}
	y.ctx, y.stop = context.WithCancelCause(r.ctx)
	r.verify = y
	for _, p := range peers {
		r.emit("verify", p.session.peer, string(VerifyRunning), "its blocks are compared with those of "+r.cfg.Node)
	}
	r.loops.Go(func() { y.loop(r) })
	return nil
}

// verifiable are the peers to compare with, or why there is nothing to do.
func (r *Resource) verifiable() ([]*verifyPeer, error) {
	switch _, waits := r.wantedGate(); {
	case !r.serving && r.adopted.Primary != "":
		return nil, fmt.Errorf("%w: a verify is begun on the Primary, which is %s", ErrRefused, r.adopted.Primary)
	case !r.serving:
		return nil, fmt.Errorf("%w: a verify is begun on the Primary, and there is none", ErrRefused)
	case r.detached || r.local == nil || !r.adopted.inSync(r.cfg.Node):
		return nil, fmt.Errorf("%w: %s has no in-sync disk to compare with", ErrRefused, r.cfg.Node)
	case waits != "":
		return nil, fmt.Errorf("%w: requests wait: %s", ErrRefused, waits)
	}
	var peers []*verifyPeer
	for _, replica := range r.adopted.Replicas {
		l := r.links[replica.Node]
		if l == nil || !r.adopted.inSync(l.node) || l.session == nil || !l.begun {
			continue
		}
		if !slices.Contains(l.session.hello.Features, verifyFeature) {
			return nil, fmt.Errorf("%w: the program on %s is too old to verify with", ErrRefused, l.node)
		}
		peers = append(peers, &verifyPeer{session: l.session})
	}
	if len(peers) == 0 {
		return nil, fmt.Errorf("%w: no other replica is in sync, so there is nothing to compare with", ErrRefused)
	}
	return peers, nil
}

// watchVerify stops a comparison whose ground has gone, and follows a repair.
func (r *Resource) watchVerify() {
	r.watchDiffering()
	y := r.verify
	switch {
	case y == nil:
	case y.state == VerifyRunning:
		if obstacle := r.verifyObstacle(y); obstacle != nil {
			y.stop(obstacle)
		}
	case y.state == VerifyRepairing:
		r.watchRepair(y)
	}
}

// verifyObstacle says why the comparison can't go on.
func (r *Resource) verifyObstacle(y *verification) error {
	switch {
	case !r.serving:
		return fmt.Errorf("%s is not Primary any more", r.cfg.Node)
	case r.demoting != nil || r.closing:
		return fmt.Errorf("%s gives the Primary role up", r.cfg.Node)
	case r.detached:
		return fmt.Errorf("the disk of %s is not used any more: %s", r.cfg.Node, r.failure)
	}
	for _, p := range y.peers {
		l := r.links[p.session.peer]
		if l == nil || l.session != p.session {
			return p.session.lost() // it has ended, so its cause is known
		}
		if !r.adopted.inSync(p.session.peer) {
			return fmt.Errorf("%s is not in sync any more", p.session.peer)
		}
	}
	return nil
}
