package replication

import (
	"fmt"
	"time"
)

// The control loop waits for nothing, except for the disk: a promise has to be durable before the next step. A disk that
// does not answer must not keep it from what can't wait: to say how things are, to stop serving when another node is
// Primary, and to give that disk up.

// beside does io, which may touch nothing of the control loop's, on a goroutine that it ends, and meanwhile what is urgent.
func (r *Resource) beside(io func() error) error {
	done := make(chan error, 1)
	go func() { done <- io() }()
	tick := time.NewTicker(r.cfg.Timing.PingInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-r.urgent.wake:
			r.serveUrgent()
		case <-tick.C:
			r.watchDisk()
		}
	}
}

// serveUrgent does what is urgent. That another node is Primary is seen here first; the rest of what follows from it is
// reconcile's.
func (r *Resource) serveUrgent() {
	for _, event := range r.urgent.take() {
		event()
	}
	v := r.volume
	if !r.superseded() {
		return
	}
	if v.turnAway() {
		r.cfg.Revoke(fmt.Sprintf("generation %d has Primary %q", r.learned.Generation, r.learned.Primary))
	}
}

// superseded reports whether this Primary knows of another configuration in which it is none.
func (r *Resource) superseded() bool {
	return r.serving && r.learned.Generation > r.adopted.Generation && !r.learned.samePrimary(&r.adopted)
}

// watchDisk gives the disk up when an operation on it has not returned for too long and another replica can do without it.
func (r *Resource) watchDisk() {
	r.slow = ""
	if r.local == nil || r.local.watch.over() != nil {
		return
	}
	limit := r.diskTimeout()
	if r.ctx.Err() != nil {
		limit = r.closeLimit()
	}
	what, age := r.local.watch.oldest()
	if limit < 0 || age < limit {
		return
	}
	cause := fmt.Errorf("%s has not returned for %v", what, age.Round(time.Millisecond))
	if r.ctx.Err() == nil && !r.dispensable() {
		r.slow = cause.Error() + ": the disk is stuck, and no other replica in sync is connected that could do without it"
		return
	}
	r.volume.giveUp(r.local, cause)
}

// dispensable reports whether the volume can go on without the local disk: a Primary through a connected peer that is in
// sync, a Secondary if it is not the only one in sync. If not, waiting is all that is left.
func (r *Resource) dispensable() bool {
	conf := &r.adopted
	if r.learned.Generation > conf.Generation {
		conf = &r.learned
	}
	if !r.serving {
		return !conf.soleCopy(r.cfg.Node)
	}
	for _, l := range r.links {
		if conf.inSync(l.node) && l.session != nil && l.begun {
			return true
		}
	}
	return false
}

// diskTimeout is how long an operation on the disk may take; negative: for ever.
func (r *Resource) diskTimeout() time.Duration {
	if limit := r.learned.DiskTimeout; limit != 0 {
		return limit
	}
	return r.cfg.Timing.DiskTimeout
}

// closeLimit is how long a resource that is closed waits for its disk.
func (r *Resource) closeLimit() time.Duration {
	if limit := r.cfg.Timing.DiskTimeout; limit > 0 {
		return limit
	}
	return DefaultTiming().DiskTimeout
}

// tellDiskFailure tells who wanted to know.
func (r *Resource) tellDiskFailure(cause error) {
	policy := r.learned.OnIOError
	if policy == "" {
		policy = OnIOErrorDetach
	}
	r.cfg.DiskFailed(DiskFailure{Resource: r.name, Policy: policy, Role: r.role(), Cause: cause})
}
