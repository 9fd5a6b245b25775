package replication

import (
	"context"
	"fmt"
)

// demote is Demote. Without patience it doesn't wait for a promotion that is asked for, nor holds later ones: who closes has no
// use of the answer, and comes back.
func (r *Resource) demote(ctx context.Context, patience bool) error {
	if err := r.call(ctx, func() { r.demotions++ }); err != nil {
		return err
	}
	for {
		done := make(chan error, 1)
		entering := false
		err := r.call(ctx, func() {
			switch {
			case patience && !r.serving && (r.promotions > 0 || r.mine(&r.learned)):
				entering = true
			case !r.serving:
				done <- nil
			case r.demoting != nil && r.successor != nil && !patience:
				entering = true // it ends soon, one way or the other
			case r.demoting != nil:
				done <- fmt.Errorf("%w: a demotion is under way already", ErrRefused)
			default:
				r.demoting, r.demotionHolds = done, patience
			}
		})
		if err != nil {
			return err
		}
		if !entering {
			return r.demoted(ctx, done)
		}
		if err := r.pause(ctx); err != nil {
			return err
		}
	}
}

// demoted waits for the end of a demotion.
func (r *Resource) demoted(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("demotion of %s: %w; requests stay suspended until it is committed", r.cfg.Node, ctx.Err())
	}
}

func (r *Resource) endDemotion(err error) {
	if r.demoting != nil {
		r.demoting <- err
		r.demoting = nil
	}
}

// quiet reports whether every request has finished and everything is stable everywhere; if not, it sees to a barrier.
func (r *Resource) quiet() bool {
	v := r.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.demoting != nil {
		v.yieldReadsLocked()
	}
	v.settling = true
	if !v.settledLocked() {
		return false
	}
	if !v.flushedLocked() {
		send := v.wantBarrierLocked()
		r.post(func() { flushWriters(send) })
		return false
	}
	v.settling = false
	return true
}

// flushedLocked reports whether the last barrier covers everything. The transfer log alone does not tell: a Primary without
// a disk has none, and of one that was Secondary before it has become bits.
func (v *Volume) flushedLocked() bool { return !v.unsealed && v.log.empty() && v.stable+1 == v.epoch }
