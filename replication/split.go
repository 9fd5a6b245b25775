package replication

import (
	"context"
	"errors"
	"fmt"
)

// splitBrain is the state of a connection between the two sides of a split: nothing is copied, in neither direction, and no
// write is sent, until the operator has decided which side is kept.
const splitBrain = "SplitBrain"

// EventSplitBrain is the kind of the events about splits.
const EventSplitBrain = "split-brain"

// splitReason says how a forked replica came to be one.
func splitReason(conf *Configuration, node string) string {
	fork := conf.replica(node).Fork
	return fmt.Sprintf("%s was in sync when another replica was forced to be Primary in generation %d, and may have acknowledged writes that are nowhere else",
		node, fork.At)
}

// watchSplits tells, on both sides, of a peer that has returned with data of the other side.
func (r *Resource) watchSplits() {
	conf := &r.learned
	for _, l := range r.links {
		split := l.session != nil && conf.split(r.cfg.Node, l.node)
		if split == l.split {
			continue
		}
		l.split = split
		if !split {
			continue
		}
		forked := l.node
		if conf.undecided(r.cfg.Node) {
			forked = r.cfg.Node
		}
		l.reason = splitReason(conf, forked)
		r.emit(EventSplitBrain, l.node, splitBrain, l.reason+": duet split show "+r.name)
	}
}

// ForceOptions are the operator's words for a forced promotion.
type ForceOptions struct {
	// Generation is the one that the operator has looked at: if the record has moved on, nothing is forced.
	Generation uint64
	// AcceptInconsistent allows a disk that is a mixture, because a resync into it has not ended.
	AcceptInconsistent bool
}

// ForcePromote makes this node Primary although acknowledged writes may be lost.
func (r *Resource) ForcePromote(ctx context.Context, options ForceOptions) error {
	return r.promoteBy(ctx, func() (Proposal, bool, error) { return r.forcedPromotion(options) })
}

// ErrMixture refuses a disk that a resync has overwritten in part.
var ErrMixture = errors.New("a resync into its disk has not ended: the content is a mixture of old and new blocks that never was the " +
	"device's, and hardly any filesystem survives that")

// forcedPromotion is the proposal that makes this node Primary by force, or the reason why there is none.
func (r *Resource) forcedPromotion(options ForceOptions) (p Proposal, serving bool, err error) {
	conf := &r.learned
	switch {
	case r.serving:
		return p, true, nil
	case r.mine(conf):
		return p, false, nil // not adopted yet
	case r.detached || conf.replica(r.cfg.Node) == nil:
		return p, false, fmt.Errorf("%w: %s has no usable disk here (%s)", ErrRefused, conf.Resource, r.failure)
	case r.diskState() == "Inconsistent" && !options.AcceptInconsistent:
		return p, false, fmt.Errorf("%w: the replica on %s can't be trusted: %w", ErrRefused, r.cfg.Node, ErrMixture)
	case conf.Generation != options.Generation:
		return p, false, fmt.Errorf("%w: the record of %s has moved on from generation %d to %d; look at it again", ErrRefused, conf.Resource,
			options.Generation, conf.Generation)
	}
	if l := r.links[conf.Primary]; l != nil && l.session != nil && l.session.hello.Role == "Primary" {
		return p, false, fmt.Errorf("%w: %s is Primary and alive; give its role up there first: duet secondary %s", ErrRefused, conf.Primary, conf.Resource)
	}
	reason := "forced by the operator on " + r.cfg.Node
	if r.diskState() == "Inconsistent" {
		reason += ", with an Inconsistent disk"
	}
	return Proposal{Kind: ProposeForce, Resource: conf.Resource, Generation: conf.Generation, Node: r.cfg.Node,
		Incarnation: r.cfg.Incarnation, Base: r.base(conf), Promised: r.superblock().Promised, Reason: reason}, false, nil
}

// base is the generation in which this replica left the in-sync set, if its metadata know that it was in it until then: up to
// there it is the same as the replicas that stayed.
func (r *Resource) base(conf *Configuration) uint64 {
	sb, mine := r.superblock(), conf.replica(r.cfg.Node)
	if conf.inSync(r.cfg.Node) || sb.Inconsistent || sb.JustCreated || sb.LastInSync == 0 || sb.LastInSync < mine.AdmittedAt {
		return 0
	}
	return mine.LeftAt
}

// mayBeTarget is the other end's check of what the source decided.
func (s *session) mayBeTarget() error {
	answer := make(chan error, 1)
	s.resource.post(func() {
		var err error
		r := s.resource
		switch why := r.notTarget(); {
		case r.adopted.undecided(r.cfg.Node):
			err = errors.New(splitReason(&r.adopted, r.cfg.Node) + ", and nobody decided to give them up")
		case why != "":
			err = errors.New(why)
		}
		answer <- err
	})
	select {
	case err := <-answer:
		return err
	case <-s.closing:
		return s.cause
	}
}
