package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"duet/quorum"
	"duet/replication"
)

// Configuration is the committed record as replication sees it.
func Configuration(r *quorum.Resource) replication.Configuration {
	c := replication.Configuration{
		Resource: r.Name, ResourceID: r.ID, SizeBytes: r.SizeBytes, GrownApart: r.GrownApart, Generation: r.Generation,
		Primary: r.Primary, PrimaryIncarnation: r.PrimaryIncarnation, PrimarySince: r.PrimarySince, Clean: r.Clean,
		InSync: r.InSync, AckDurable: r.AckDurable, LossCount: r.LossCount, ForcedAt: r.ForcedAt,
		OnIOError: replication.OnIOError(r.OnIOError), DiskTimeout: time.Duration(r.DiskTimeoutMS) * time.Millisecond,
	}
	for _, replica := range r.Replicas {
		c.Replicas = append(c.Replicas, replication.Replica{Node: replica.Node, Slot: replica.Slot, AddedAt: replica.AddedAt,
			LeftAt: replica.LeftAt, AdmittedAt: replica.AdmittedAt, AdmittedBoot: replica.AdmittedBoot,
			Promised: replica.Promised, Fork: replication.Fork(replica.Fork), Discard: replication.Discard(replica.Discard)})
	}
	return c
}

// NewArbiter lets replication propose to the quorum.
func NewArbiter(q *quorum.Node) replication.Arbiter { return arbiter{q} }

type arbiter struct{ quorum *quorum.Node }

// Propose translates both ways.
func (a arbiter) Propose(ctx context.Context, p replication.Proposal) (replication.Configuration, error) {
	command, err := commandOf(p)
	if err != nil {
		return replication.Configuration{}, err
	}
	result, err := a.quorum.Propose(ctx, command)
	var conf replication.Configuration
	if result.Resource != nil {
		conf = Configuration(result.Resource)
	}
	switch {
	case errors.Is(err, quorum.ErrStale):
		err = fmt.Errorf("%w: %w", replication.ErrStale, err)
	case errors.Is(err, quorum.ErrRefused):
		err = fmt.Errorf("%w: %s", replication.ErrRejected, quorum.Reason(err))
	case errors.Is(err, quorum.ErrNoLeader):
		err = fmt.Errorf("%w: %w", replication.ErrNoMajority, err)
	}
	return conf, err
}

func commandOf(p replication.Proposal) (quorum.Command, error) {
	now := time.Now().Unix()
	switch p.Kind {
	case replication.ProposePromote:
		return quorum.Promote{Resource: p.Resource, Generation: p.Generation, Node: p.Node, Incarnation: p.Incarnation, Auto: p.Auto, Reason: p.Reason, Now: now}, nil
	case replication.ProposeForce:
		return quorum.Force{Resource: p.Resource, Generation: p.Generation, Node: p.Node, Incarnation: p.Incarnation, Base: p.Base,
			Promised: p.Promised, Reason: p.Reason, Now: now}, nil
	case replication.ProposeDemote:
		return quorum.Demote{Resource: p.Resource, Generation: p.Generation, Node: p.Node, Incarnation: p.Incarnation, Clean: p.Clean,
			Hold: p.Hold, Reason: p.Reason}, nil
	case replication.ProposeSwitch:
		return quorum.Switch{Resource: p.Resource, Generation: p.Generation, Node: p.Node, Incarnation: p.Incarnation, Target: p.Target,
			TargetInc: p.TargetIncarnation, Reason: p.Reason, Now: now}, nil
	case replication.ProposeRemove:
		return quorum.RemoveInSync{Resource: p.Resource, Generation: p.Generation, Proposer: p.Node, ProposerInc: p.Incarnation,
			Target: p.Target, Reason: p.Reason, Now: now}, nil
	case replication.ProposeAdd:
		return quorum.AddInSync{Resource: p.Resource, Generation: p.Generation, Proposer: p.Node, ProposerInc: p.Incarnation,
			Target: p.Target, TargetInc: p.TargetIncarnation, TargetPromised: p.TargetPromised, Reason: p.Reason}, nil
	case replication.ProposeDetach:
		return quorum.Detach{Resource: p.Resource, Generation: p.Generation, Proposer: p.Node, ProposerInc: p.Incarnation, Reason: p.Reason, Now: now}, nil
	}
	return nil, fmt.Errorf("node: proposal of unknown kind %q", p.Kind)
}
