package replication

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// suspension is the operator's: requests of clients wait until ResumeIO, or until its time is up. It belongs to the role of this
// process: it ends with it, and nobody else knows of it.
type suspension struct {
	until time.Time // zero: until ResumeIO
}

// SuspendOptions say how requests are suspended.
type SuspendOptions struct {
	Flush bool          // what was written is to be on stable media everywhere as well
	For   time.Duration // after which they go on by themselves; 0: never
}

// Suspended is what SuspendIO has reached.
type Suspended struct {
	Until  time.Time // zero: until ResumeIO
	InSync []string  // the replicas that are equal for as long as it lasts
}

// SuspendIO lets all requests of clients wait, and returns when none is under way on any replica any more. If that is not reached
// before ctx ends, everything is as it was before. Said again, it changes until when, and waits for the same.
func (r *Resource) SuspendIO(ctx context.Context, o SuspendOptions) (Suspended, error) {
	var mine, before *suspension
	var refusal error
	err := r.call(ctx, func() {
		if refusal = r.maySuspend(); refusal == nil {
			before = r.suspension
			mine = r.suspend(o.For)
		}
	})
	if err == nil && refusal == nil {
		var reached Suspended
		if reached, err = r.awaitStillness(ctx, mine, o.Flush); err == nil {
			return reached, nil
		}
		r.takeBack(mine, before)
	}
	return Suspended{}, errors.Join(err, refusal)
}

// maySuspend refuses where no request is served anyway.
func (r *Resource) maySuspend() error {
	switch {
	case !r.serving:
		return fmt.Errorf("%w: no request is served on %s", ErrNotPrimary, r.cfg.Node)
	case r.demoting != nil || r.closing:
		return fmt.Errorf("%w: %s gives the Primary role up", ErrRefused, r.cfg.Node)
	}
	return nil
}

func (r *Resource) suspend(limit time.Duration) *suspension {
	s := &suspension{}
	reason := "suspended by the operator"
	if limit > 0 {
		s.until = time.Now().Add(limit)
		reason += ", for " + limit.String()
	}
	r.suspension = s
	r.setGate()
	r.emit("suspended", "", "user", reason)
	return s
}

// awaitStillness waits until nothing is under way. Each look at it also asks for the barrier that is needed.
func (r *Resource) awaitStillness(ctx context.Context, mine *suspension, flush bool) (Suspended, error) {
	for {
		reached := Suspended{Until: mine.until}
		still, ended := false, false
		err := r.call(ctx, func() {
			ended = r.suspension != mine
			still = !ended && r.still(flush)
			reached.InSync = r.adopted.InSync
		})
		switch {
		case err != nil:
			return reached, err
		case ended:
			return reached, fmt.Errorf("%w: it was ended or asked for anew meanwhile", ErrRefused)
		case still:
			return reached, nil
		}
		if err := r.pause(ctx); err != nil {
			return reached, err
		}
	}
}

// still reports whether every request has ended on every replica in the in-sync set, all of which are connected; with flush, also
// whether everything is on stable media there.
func (r *Resource) still(flush bool) bool {
	for _, l := range r.links {
		if l.lost || r.adopted.inSync(l.node) && (l.session == nil || !l.begun) {
			return false
		}
	}
	if flush {
		return r.quiet()
	}
	v := r.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.inOpen+v.inClosing == 0 && v.barrier == nil
}

// takeBack undoes a suspension that was not reached in time.
func (r *Resource) takeBack(mine, before *suspension) {
	err := r.call(r.ctx, func() {
		if r.suspension != mine {
			return
		}
		if r.suspension = before; before == nil {
			r.endSuspension("not everything under way ended in time")
		}
	})
	if err != nil {
		r.log.Debug("suspension", "error", err) // the resource ends, and the suspension with it
	}
}

// ResumeIO lets the requests go on that SuspendIO has stopped.
func (r *Resource) ResumeIO(ctx context.Context) error {
	var refusal error
	err := r.call(ctx, func() {
		if r.suspension == nil {
			refusal = fmt.Errorf("%w: the operator has suspended nothing on %s", ErrRefused, r.cfg.Node)
			return
		}
		r.endSuspension("resumed by the operator")
	})
	return errors.Join(err, refusal)
}

// watchSuspension ends a suspension whose time is up, or whose role is gone.
func (r *Resource) watchSuspension() {
	switch {
	case r.suspension == nil:
	case !r.serving:
		r.endSuspension("the node is not Primary any more")
	case !r.suspension.until.IsZero() && time.Now().After(r.suspension.until):
		r.endSuspension("its time is up")
	}
}

// endSuspension lets the gate be what it would be; the caller's event moves it.
func (r *Resource) endSuspension(reason string) {
	r.suspension = nil
	r.emit("suspended", "", "no", reason)
	r.setGate()
}
