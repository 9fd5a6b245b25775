package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"duet/internal/control"
	"duet/quorum"
)

// changeAttempts is how often a change of a resource is proposed anew because something else has changed it meanwhile.
const changeAttempts = 5

// changeResource proposes what command makes of the newest record, until it is made for the right generation. command may refuse.
func (n *Node) changeResource(ctx context.Context, resource, what string,
	command func(current *quorum.Resource) (quorum.Command, error)) (*quorum.Resource, error) {
	for attempt := 1; ; attempt++ {
		current, err := n.newest(ctx, resource)
		if err != nil {
			return nil, err
		}
		c, err := command(current)
		if err != nil {
			return nil, err
		}
		result, err := n.quorum.Propose(ctx, c)
		if err == nil {
			return result.Resource, nil
		}
		if !errors.Is(err, quorum.ErrStale) || attempt == changeAttempts {
			return nil, errors.Join(errUncommitted(err), proposeError(what, err))
		}
	}
}

// errRefusedForGood marks a proposal that certainly was not executed, and never will be.
var errRefusedForGood = errors.New("not committed")

func errUncommitted(err error) error {
	for _, never := range []error{quorum.ErrStale, quorum.ErrRefused, quorum.ErrNoLeader} {
		if errors.Is(err, never) {
			return errRefusedForGood
		}
	}
	return nil
}

// ReplicaAdd implements control.Node: prepare on the node, commit. What fails before the commit is undone there.
func (n *Node) ReplicaAdd(ctx context.Context, resource string, r *control.ReplicaAddRequest) (*control.ResourceRecord, error) {
	current, err := n.newest(ctx, resource)
	if err != nil {
		return nil, err
	}
	if err := n.mayAddReplica(current, r.Node); err != nil {
		return nil, err
	}
	if err := n.waitRegistered(ctx, r.Node); err != nil {
		return nil, err
	}
	slot, incarnation := current.FreeSlot(), n.quorum.State().Nodes[r.Node].Incarnation // as of before it prepares
	id := current.ID.String()
	ready, err := n.prepareOn(ctx, r.Node, &control.PrepareReplicaRequest{Resource: resource, ID: id, Slot: slot, SizeBytes: current.SizeBytes,
		Path: r.Path, Metadata: r.Metadata, Force: r.Force})
	if err != nil {
		return nil, err
	}
	committed, err := n.changeResource(ctx, resource, "add a replica of "+resource, func(now *quorum.Resource) (quorum.Command, error) {
		if now.ID != current.ID || now.SizeBytes != current.SizeBytes {
			return nil, errors.Join(errRefusedForGood, control.Errorf(control.CodeRefused, "%s has changed meanwhile", resource).WithHint("try again"))
		}
		return quorum.AddReplica{Resource: resource, Generation: now.Generation, Incarnation: incarnation, Now: time.Now().Unix(),
			NewReplica: quorum.NewReplica{Node: r.Node, Slot: slot, Path: ready.Path, Metadata: ready.Metadata}}, nil
	})
	if err != nil {
		return nil, n.undoAddition(err, r.Node, &control.DropReplicaRequest{Resource: resource, ID: id})
	}
	answer := record(committed)
	answer.Warnings = additionNotes(committed, r.Node)
	return answer, nil
}

// waitRegistered gives a node that has just joined the moment that it takes until it is seen running.
func (n *Node) waitRegistered(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	if n.waitFor(ctx, node, func() bool { return n.quorum.State().Nodes[node].Incarnation > 0 }) == nil {
		return nil
	}
	return control.Errorf(control.CodeRefused, "%s has joined, and was never seen running", node).WithHint("start it: `duet run` there")
}

// mayAddReplica refuses what the record alone tells.
func (n *Node) mayAddReplica(current *quorum.Resource, node string) error {
	state := n.quorum.State()
	member, known := state.Nodes[node]
	_, holds := current.Replica(node)
	switch {
	case !known:
		return control.Errorf(control.CodeNotFound, "there is no node %s in this cluster: it has %s", node,
			strings.Join(slices.Sorted(maps.Keys(state.Nodes)), ", "))
	case member.Kind == quorum.Witness:
		return control.Errorf(control.CodeRefused, "%s is a witness: it holds no data", node)
	case holds:
		return control.Errorf(control.CodeRefused, "%s has a replica of %s already", node, current.Name).
			WithHint("another disk takes its place by `duet attach %s --disk PATH` on %s", current.Name, node)
	case current.FreeSlot() < 0:
		return control.Errorf(control.CodeRefused, "%s has %d replicas, and no more are possible", current.Name, len(current.Replicas))
	}
	return nil
}

// undoAddition has the node undo what it prepared, if the commit certainly never comes; else that expires by itself.
func (n *Node) undoAddition(err error, node string, r *control.DropReplicaRequest) error {
	failure := control.AsError(err)
	if !errors.Is(err, errRefusedForGood) {
		return failure
	}
	ctx, cancel := context.WithTimeout(n.ctx, askLimit)
	defer cancel()
	if err := n.dropOn(ctx, node, r); err != nil {
		n.log.Warn("undo a prepared replica", "peer", node, "resource", r.Resource, "error", err)
	}
	return failure
}

func additionNotes(r *quorum.Resource, node string) []string {
	if r.Primary == "" {
		return []string{fmt.Sprintf("%s has no Primary: nothing is copied to %s until it has one", r.Name, node)}
	}
	return []string{fmt.Sprintf("everything is copied to %s now: duet resync status %s", node, r.Name)}
}

// ReplicaRemove implements control.Node. The node is not asked: it learns of it, now or when it comes back.
func (n *Node) ReplicaRemove(ctx context.Context, resource string, r *control.ReplicaRemoveRequest) (*control.ResourceRecord, error) {
	committed, err := n.changeResource(ctx, resource, "remove the replica of "+r.Node, func(now *quorum.Resource) (quorum.Command, error) {
		return quorum.RemoveReplica{Resource: resource, Generation: now.Generation, Node: r.Node, GiveUp: r.Force, Now: time.Now().Unix()}, mayRemoveReplica(now, r)
	})
	if err != nil {
		return nil, control.AsError(err)
	}
	answer := record(committed)
	if len(committed.Replicas) == 1 {
		answer.Warnings = append(answer.Warnings, "there is only one replica left: nothing survives the loss of its disk")
	}
	if r.Node == n.config.Name {
		return answer, n.waitFor(ctx, "the end of "+resource+" on this node", func() bool { return n.held(resource) == nil })
	}
	if err := n.answers(ctx, r.Node); err != nil {
		answer.Warnings = append(answer.Warnings, fmt.Sprintf("%s can't be reached: its metadata of %s stay behind there, and count for nothing", r.Node, resource))
	}
	return answer, nil
}

// mayRemoveReplica says what to do where the record would refuse.
func mayRemoveReplica(r *quorum.Resource, request *control.ReplicaRemoveRequest) error {
	replica, holds := r.Replica(request.Node)
	switch {
	case !holds:
		return control.Errorf(control.CodeNotFound, "%s has no replica of %s", request.Node, r.Name).WithHint("see `duet resource show %s`", r.Name)
	case r.Primary == request.Node:
		return control.Errorf(control.CodeRefused, "%s is the Primary of %s", request.Node, r.Name).
			WithHint("make another node Primary first: `duet secondary %s` there, then `duet primary %s` on the other", r.Name, r.Name)
	case len(r.InSync) == 1 && r.IsInSync(request.Node):
		return control.Errorf(control.CodeRefused, "%s has the last in-sync replica of %s", request.Node, r.Name).
			WithHint("wait until another one is in sync (duet status %s); if it is gone for good: duet primary %s --force on another node", r.Name, r.Name)
	case replica.Fork.At != 0 && replica.Discard.At == 0 && !request.Force:
		return control.Errorf(control.CodeRefused, "%s is a side of a split of %s, and nobody decided to give its data up", request.Node, r.Name).
			WithHint("duet split show %s; with --force what only it has stays on its disk, and nobody knows any more what that is", r.Name)
	}
	return nil
}

// ResourceEdit implements control.Node.
func (n *Node) ResourceEdit(ctx context.Context, resource string, r *control.ResourceEditRequest) (*control.ResourceRecord, error) {
	committed, err := n.changeResource(ctx, resource, "change "+resource, func(now *quorum.Resource) (quorum.Command, error) {
		return editCommand(now, r), nil
	})
	if err != nil {
		return nil, control.AsError(err)
	}
	return record(committed), nil
}

func editCommand(now *quorum.Resource, r *control.ResourceEditRequest) quorum.EditResource {
	c := quorum.EditResource{Resource: now.Name, Generation: now.Generation, Preferred: r.Preferred, Now: time.Now().Unix()}
	var said []string
	if r.Promotion != nil {
		c.Promotion = new(quorum.Promotion(*r.Promotion))
		said = append(said, "promotion "+string(*r.Promotion))
	}
	if r.Preferred != nil {
		said = append(said, fmt.Sprintf("preferred %q", *r.Preferred))
	}
	if r.OnIOError != nil {
		c.OnIOError = new(string(*r.OnIOError))
		said = append(said, "on I/O errors "+*c.OnIOError)
	}
	if r.DiskTimeout != nil {
		c.DiskTimeoutMS = new(diskTimeoutMS(*r.DiskTimeout))
		said = append(said, fmt.Sprintf("disk timeout %d ms", *c.DiskTimeoutMS))
	}
	c.Reason = strings.Join(said, ", ")
	return c
}

// diskTimeoutMS is how the record has it: 0 is the default, -1 never.
func diskTimeoutMS(limit control.Duration) int64 {
	if limit < 0 {
		return -1
	}
	return time.Duration(limit).Milliseconds()
}
