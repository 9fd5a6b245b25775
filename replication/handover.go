package replication

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A switchover hands the Primary's role to an in-sync replica in one commit. Until it the old Primary has the role, from then on the
// new one; there is nothing in between. The old Primary stops serving before it proposes, and serves again only if the proposal
// certainly has no effect: that a commit is not known of is no reason to go on (rule R10 in docs/QUORUM.md).

// succession is a switchover under way; the control loop owns it.
type succession struct {
	node        string
	incarnation uint64
	drained     time.Time // when nothing was under way any more; zero: not yet
	committed   time.Time
	generation  uint64 // in which node is Primary; 0: not committed, as far as is known
	// inFlight: the outcome of a proposal for this generation is not known, or it is being made; 0: there is none.
	inFlight uint64
	doubtful bool // a proposal for it was made, and its outcome is not known
}

// HandedOver is a switchover as the old Primary has seen it.
type HandedOver struct {
	Generation uint64        // in which the other node is Primary
	Drain      time.Duration // from the first request that had to wait until everything was finished and on stable media
	Commit     time.Duration // from then on until the quorum's word was known
	Committed  time.Time
}

// errNotConnected is a part of the reason why a node can't be the next Primary.
var errNotConnected = errors.New("is not connected")

// errHandedOver ends the sessions of a Primary that is none any more.
var errHandedOver = errors.New("its Primary has handed the role over")

// HandOver gives the Primary's role to another node, in the given incarnation, in good order: what was acknowledged until now is
// flushed while requests go on, then they wait, the rest is finished and flushed everywhere, and the other is made Primary. The in-sync
// set stays as it is. Requests that waited are never answered: the clients' connections end, and they find the new Primary.
//
// If ctx ends before anything was proposed, or the record refuses, everything goes on as it was before. Once it is proposed, requests
// wait until the outcome is known, also after ctx has ended.
func (r *Resource) HandOver(ctx context.Context, node string, incarnation uint64) (HandedOver, error) {
	if err := r.mayHandOver(ctx, node, incarnation); err != nil {
		return HandedOver{}, err
	}
	if err := r.flushAhead(ctx); err != nil {
		return HandedOver{}, err
	}
	next := &succession{node: node, incarnation: incarnation}
	done := make(chan error, 1)
	began := time.Now()
	var refusal error
	err := r.call(ctx, func() {
		if refusal = r.handOverRefusal(node, incarnation); refusal == nil {
			r.demotions++
			r.demoting, r.demotionHolds, r.successor = done, false, next
		}
	})
	if err := errors.Join(err, refusal); err != nil {
		return HandedOver{}, err
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		if err = r.abandonHandOver(next, ctx.Err()); err == nil {
			err = <-done // it ended at the same moment
		}
	case <-r.ctx.Done():
		err = ErrClosed
	}
	if err != nil {
		return HandedOver{}, err
	}
	return HandedOver{Generation: next.generation, Drain: next.drained.Sub(began), Commit: next.committed.Sub(next.drained), Committed: next.committed}, nil
}

// mayHandOver waits for a target that is about to connect: it is in sync, so requests wait for it as well.
func (r *Resource) mayHandOver(ctx context.Context, node string, incarnation uint64) error {
	began := time.Now()
	return r.until(ctx, func() (bool, error) {
		err := r.handOverRefusal(node, incarnation)
		if errors.Is(err, errNotConnected) && time.Since(began) < r.cfg.Timing.ConnectGrace {
			return false, nil
		}
		return true, err
	})
}

// handOverRefusal is why the role can't be handed to a node now.
func (r *Resource) handOverRefusal(node string, incarnation uint64) error {
	switch {
	case r.closing:
		return ErrClosed
	case !r.serving || r.superseded():
		return fmt.Errorf("%w: the role can't be handed over by %s", ErrNotPrimary, r.cfg.Node)
	case r.demoting != nil: // a promotion that has not returned yet is one that was granted: the node serves
		return fmt.Errorf("%w: a change of the role is under way", ErrRefused)
	case r.suspension != nil:
		return fmt.Errorf("%w: the operator has suspended requests; duet resume-io %s first", ErrRefused, r.name)
	case r.leaving:
		return fmt.Errorf("%w: the disk of %s is being detached", ErrRefused, r.cfg.Node)
	}
	return r.unfitSuccessor(node, incarnation)
}

// unfitSuccessor is why a node can't be the next Primary.
func (r *Resource) unfitSuccessor(node string, incarnation uint64) error {
	l := r.links[node]
	switch {
	case node == r.cfg.Node:
		return fmt.Errorf("%w: %s is Primary already", ErrRefused, node)
	case l == nil:
		return fmt.Errorf("%w: %s has no replica of %s", ErrRefused, node, r.name)
	case !r.adopted.inSync(node) || !l.differs.IsZero():
		return fmt.Errorf("%w: the replica on %s is not in sync", ErrRefused, node)
	case l.session == nil || !l.begun:
		return fmt.Errorf("%w: %s %w", ErrRefused, node, errNotConnected)
	case l.session.hello.Incarnation != incarnation:
		return fmt.Errorf("%w: %s has restarted", ErrRefused, node)
	}
	return nil
}

// flushAhead makes durable everywhere what is in the page caches, while requests are served: what is left for the time when they
// wait is little then.
func (r *Resource) flushAhead(ctx context.Context) error {
	done := make(flushed, 1)
	r.volume.Flush(nil, done)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ctx.Done():
		return ErrClosed
	}
}

// flushed is told when a flush of this node's own has ended.
type flushed chan error

// Complete implements Completion.
func (f flushed) Complete(_ Batch, err error) { f <- err }

// abandonHandOver ends a switchover that nobody waits for any more, if it certainly has no effect, and returns why it ended; nil if
// it has ended otherwise.
func (r *Resource) abandonHandOver(next *succession, cause error) error {
	var outcome error
	err := r.call(r.ctx, func() {
		switch {
		case r.successor != next:
		case next.inFlight > 0:
			outcome = fmt.Errorf("%s may become Primary yet; requests wait until that is known: %w", next.node, cause)
		default:
			r.endHandOver(nil)
			outcome = fmt.Errorf("not everything under way ended in time, and %s is Primary as before: %w", r.cfg.Node, cause)
		}
	})
	if err != nil {
		return err
	}
	return outcome
}

// endHandOver ends a switchover in which this node stays Primary. The gate opens with the next look at the state.
func (r *Resource) endHandOver(cause error) {
	r.successor = nil
	r.endDemotion(cause)
	if cause != nil {
		r.emit("role", "", "Primary", "not handed over: "+cause.Error())
	}
}

// proposeSuccessor makes the proposal once nothing is under way any more. It is not made while a member is missing: that one
// might lack what the others have flushed.
func (r *Resource) proposeSuccessor(p Proposal) {
	next := r.successor
	if p.Generation > next.inFlight {
		next.inFlight, next.doubtful = 0, false // what may have been under way is stale
	}
	if err := r.unfitSuccessor(next.node, next.incarnation); err != nil {
		if next.inFlight == 0 {
			r.endHandOver(err)
		}
		return
	}
	for _, l := range r.links {
		if r.adopted.inSync(l.node) && (l.session == nil || !l.begun) {
			return // it comes, or is removed
		}
	}
	if next.drained.IsZero() {
		next.drained = time.Now()
	}
	p.Kind, p.Target, p.TargetIncarnation, p.Reason = ProposeSwitch, next.node, next.incarnation, "handed over by "+r.cfg.Node
	next.inFlight = p.Generation
	r.start(p)
}

// switchProposed takes the answer to a proposal of a switchover. Only an answer that excludes the effect lets the old Primary go on.
func (r *Resource) switchProposed(p Proposal, generation uint64, err error) {
	next := r.successor
	if next == nil || next.inFlight != p.Generation {
		return
	}
	switch {
	case err == nil:
		next.generation, next.committed = generation, time.Now()
	case errors.Is(err, ErrStale):
		next.inFlight, next.doubtful = 0, false // nothing that was made for it can be committed any more
	case errors.Is(err, ErrRejected):
		next.inFlight = 0 // what the record refuses for this generation it refuses for good
		r.endHandOver(err)
	case errors.Is(err, ErrNoMajority) && !next.doubtful:
		next.inFlight = 0
		r.endHandOver(err)
	default:
		next.doubtful = true
	}
}

// successionEnds is called when this node is Primary no more.
func (r *Resource) successionEnds() {
	next := r.successor
	if next == nil {
		r.endDemotion(nil)
		return
	}
	r.successor = nil
	if r.learned.Primary != next.node || r.learned.PrimaryIncarnation != next.incarnation {
		r.endDemotion(fmt.Errorf("%w: generation %d has Primary %q", ErrRefused, r.learned.Generation, r.learned.Primary))
		return
	}
	if next.committed.IsZero() { // it was learned otherwise
		next.generation, next.committed = r.learned.PrimarySince, time.Now()
	}
	r.endDemotion(nil)
}

// lastWord tells the peers who is Primary now, as the last frame on each session, and then ends them: so the new Primary need not wait
// until the quorum tells it. A peer that does not hear it learns it from the quorum.
func (r *Resource) lastWord() {
	if r.successor == nil || r.learned.Primary != r.successor.node {
		return
	}
	payload, err := configurationPayload(&r.learned)
	if err != nil {
		return // the quorum has it
	}
	for _, l := range r.links {
		s := l.session
		if s == nil || l.parting {
			continue
		}
		l.parting = true
		s.sendFrame(Header{Type: FrameConfiguration, Generation: r.learned.Generation}, payload)
		r.loops.Go(func() {
			s.dataWriter.drain(r.cfg.Timing.PingInterval)
			s.fail(errHandedOver)
		})
	}
}

// successorNamed takes the last word of a Primary that has handed its role over. The session ends with it.
func (r *Resource) successorNamed(s *session, conf *Configuration) error {
	if conf.Generation > r.learned.Generation {
		r.learned = *conf
	}
	return fmt.Errorf("%w to %s", errHandedOver, conf.Primary)
}

// namesSuccessor reports whether conf, from the Primary that this node serves, says that another node is Primary now.
func (r *Resource) namesSuccessor(s *session, conf *Configuration) bool {
	return conf.ResourceID == r.id && !r.serving && conf.Primary != s.peer && conf.inSync(conf.Primary) && conf.Generation > r.adopted.Generation &&
		r.adopted.Primary == s.peer && r.adopted.PrimaryIncarnation == s.hello.Incarnation
}

// AwaitServing waits until this node, as Primary of the generation or a later one, serves requests.
func (r *Resource) AwaitServing(ctx context.Context, generation uint64) error {
	tick := time.NewTicker(r.cfg.Timing.RetryMin)
	defer tick.Stop()
	for {
		v := r.volume
		v.mu.Lock()
		moved := v.gateMoved
		serves := v.gate == gateOpen && v.generation >= generation
		v.mu.Unlock()
		if serves {
			return nil
		}
		var refusal error
		err := r.call(ctx, func() {
			if conf := &r.learned; conf.Generation >= generation && !r.mine(conf) {
				refusal = fmt.Errorf("%w: generation %d has Primary %q", ErrRefused, conf.Generation, conf.Primary)
			}
		})
		if err := errors.Join(err, refusal); err != nil {
			return err
		}
		select {
		case <-moved:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.ctx.Done():
			return ErrClosed
		}
	}
}
