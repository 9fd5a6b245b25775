package replication

import (
	"context"
	"fmt"
	"time"
)

// RoleHooks are told of changes of role, and asked before those that can be refused. Each may be nil.
type RoleHooks struct {
	// BeforePromote is called where Promote or ForcePromote was, once it is to be proposed; an error refuses the promotion.
	// It may take its time: nothing waits for it but the caller.
	BeforePromote func(ctx context.Context) error
	// BeforeDemote is called where Demote was, while this node still serves; an error refuses the demotion. Close doesn't ask.
	BeforeDemote func(ctx context.Context) error
	// Changed is called when this node has become Primary or is it no more; it must not block.
	Changed func(RoleChange)
}

func (h RoleHooks) withDefaults() RoleHooks {
	if h.BeforePromote == nil {
		h.BeforePromote = func(context.Context) error { return nil }
	}
	if h.BeforeDemote == nil {
		h.BeforeDemote = func(context.Context) error { return nil }
	}
	if h.Changed == nil {
		h.Changed = func(RoleChange) {}
	}
	return h
}

// RoleChange is the beginning or the end of the Primary role on this node.
type RoleChange struct {
	Primary    bool
	Ordered    bool // it has ended by a demotion, not by the word of others
	Generation uint64
	Reason     string
}

// pause waits one back-off step.
func (r *Resource) pause(ctx context.Context) error { return r.pauseFor(ctx, r.cfg.Timing.RetryMin) }

func (r *Resource) pauseFor(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ctx.Done():
		return ErrClosed
	}
}

// Exited notes that an incarnation of a node has certainly ended: it answers no read any more, so that no lease has to be
// waited out.
func (r *Resource) Exited(node string, incarnation uint64) {
	r.post(func() { r.exited[node] = exit{incarnation, r.learned.Generation} })
}

// exit is the end of a process, and the generation by which it was known.
type exit struct{ incarnation, generation uint64 }

// Silent says that nothing is heard of a node on another way. A session on which it is silent, too, ends at once, and one that
// has none is not waited for: writes wait for the removal of who died, and not for a time-out that has to bear a slow link.
func (r *Resource) Silent(node string) {
	r.post(func() {
		l := r.links[node]
		switch {
		case l == nil || !r.serving:
		case l.session == nil:
			l.silentAt = time.Now()
		case l.session.silence() > r.cfg.Timing.Suspect/2:
			l.session.fail(fmt.Errorf("nothing heard of %s for %v on any connection", node, l.session.silence().Round(time.Millisecond)))
		}
	})
}

// silenceFresh is for how long the word that a node is silent counts.
const silenceFresh = 200 * time.Millisecond

// ended reports whether the Primary that conf names is known to have ended. Whoever took the role later is another one: a node that
// joins again, having lost its directory, counts its incarnations from one.
func (r *Resource) ended(conf *Configuration) bool {
	known, any := r.exited[conf.Primary]
	return any && conf.Primary != "" && known.incarnation >= conf.PrimaryIncarnation && known.generation >= conf.PrimarySince
}

// Demote gives the Primary role up in good order: stop, drain, flush everywhere, commit. It is no local decision: until
// the commit is known nothing is served, and the attempt goes on. A promotion under way is ended, or, if it was granted
// already, given up as any other.
func (r *Resource) Demote(ctx context.Context) error {
	if r.Serving() {
		if err := r.cfg.Role.BeforeDemote(ctx); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	return r.demote(ctx, true)
}
