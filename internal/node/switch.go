package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"duet/internal/control"
	"duet/quorum"
	"duet/replication"
)

// takeOverLimit is how long a new Primary may take until it serves. It is far above what it takes, and below what clients bear.
const takeOverLimit = 5 * time.Second

// Switch implements control.Node. The Primary carries it out; whoever else is told passes it on.
func (n *Node) Switch(ctx context.Context, resource string, r *control.SwitchRequest) (*control.SwitchResult, error) {
	current, err := n.newest(ctx, resource)
	if err != nil {
		return nil, err
	}
	to, err := successor(n.quorum.State(), current, r.To)
	switch {
	case err != nil:
		return nil, err
	case to == current.Primary:
		return &control.SwitchResult{Resource: resource, From: to, To: to, Generation: current.Generation, Already: true}, nil
	case current.Primary == n.config.Name:
		return n.handOver(ctx, resource, to)
	case r.Relayed:
		return nil, control.Errorf(control.CodeRefused, "%s is Primary of %s by now, not %s", current.Primary, resource, n.config.Name).WithHint("try again")
	}
	client := n.peer(current.Primary)
	defer client.Close()
	result, err := client.Switch(ctx, resource, &control.SwitchRequest{To: to, Relayed: true})
	if failure := control.AsError(err); err != nil && failure.Code == control.CodeUnreachable && failure.Hint == "" {
		return nil, control.Errorf(control.CodeUnreachable, "%s is Primary of %s and can't be reached: %s", current.Primary, resource, failure.Message).
			WithHint("if it is dead, `duet primary %s` on %s takes over", resource, to)
	}
	return result, err
}

// successor decides which node is to be Primary next; wanted is what the operator says, "" for nothing.
func successor(state *quorum.State, r *quorum.Resource, wanted string) (string, error) {
	others := slices.DeleteFunc(slices.Clone(r.InSync), func(name string) bool { return name == r.Primary })
	switch {
	case r.Primary == "" || !state.Serves(r):
		return "", control.Errorf(control.CodeRefused, "%s has no Primary that could hand its role over", r.Name).
			WithHint("run `duet primary %s` on %s", r.Name, strings.Join(r.InSync, " or "))
	case wanted != "":
		return wanted, mayFollow(state, r, wanted)
	case len(others) == 0:
		return "", control.Errorf(control.CodeRefused, "no replica of %s but that of %s, the Primary, is in sync", r.Name, r.Primary).
			WithHint("see `duet status %s`", r.Name)
	case len(others) == 1:
		return others[0], nil
	case slices.Contains(others, r.Preferred):
		return r.Preferred, nil
	}
	return "", control.Errorf(control.CodeRefused, "%s can each be Primary of %s next: which one?", strings.Join(others, " and "), r.Name).
		WithHint("duet switch %s --to %s", r.Name, others[0])
}

// mayFollow says why a node can't be the next Primary.
func mayFollow(state *quorum.State, r *quorum.Resource, node string) error {
	member, known := state.Nodes[node]
	_, replica := r.Replica(node)
	switch {
	case !known:
		return control.Errorf(control.CodeNotFound, "there is no node %s in this cluster: it has %s", node, strings.Join(sortedNames(state.Nodes), ", "))
	case member.Kind == quorum.Witness:
		return control.Errorf(control.CodeRefused, "%s is a witness: it holds no data", node)
	case !replica:
		return control.Errorf(control.CodeRefused, "%s has no replica of %s", node, r.Name)
	case node != r.Primary && !r.IsInSync(node):
		return control.Errorf(control.CodeRefused, "the replica of %s on %s is not in sync; %s", r.Name, node, strings.Join(r.InSync, " and ")+" have every acknowledged write").
			WithHint("see `duet status %s`; it can take over when its resync is done", r.Name)
	}
	return nil
}

// handOver makes another node Primary in this one's place. What the target has to say against it is heard before anything stops.
func (n *Node) handOver(ctx context.Context, resource, to string) (*control.SwitchResult, error) {
	replica, err := n.replica(resource)
	if err != nil {
		return nil, err
	}
	h := n.held(resource)
	client := n.peer(to)
	defer client.Close()
	ready, err := client.TakeOver(ctx, &control.TakeOverRequest{Resource: resource})
	if err != nil {
		failure := control.AsError(err)
		return nil, control.Errorf(failure.Code, "%s can't be Primary of %s now: %s", to, resource, failure.Message).WithHint("see `duet status %s`", resource)
	}
	if err := n.beforeDemote(ctx, h); err != nil {
		return nil, control.Errorf(control.CodeRefused, "hand %s over to %s: %v", resource, to, err)
	}
	over, err := replica.HandOver(ctx, to, ready.Incarnation)
	if err != nil {
		if replica.Serving() { // else what becomes of it is told when it is known
			n.keepsRole(h, err)
		}
		return nil, roleError(fmt.Sprintf("hand %s over to %s", resource, to), err)
	}
	if err := n.awaitSuccessor(client, resource, over.Generation); err != nil {
		return nil, n.takeBack(replica, to, resource, err)
	}
	promote := time.Since(over.Committed)
	result := &control.SwitchResult{Resource: resource, From: n.config.Name, To: to, Generation: over.Generation, DrainMS: milliseconds(over.Drain),
		CommitMS: milliseconds(over.Commit), PromoteMS: milliseconds(promote), TotalMS: milliseconds(over.Drain + over.Commit + promote)}
	n.journal.add(control.Event{Resource: resource, Peer: to, Kind: "switch", Old: n.config.Name, New: to, Generation: over.Generation,
		Message: fmt.Sprintf("handed over in %.1f ms: drain %.1f, commit %.1f, promote %.1f", result.TotalMS, result.DrainMS, result.CommitMS, result.PromoteMS)})
	return result, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// awaitSuccessor waits until the new Primary serves. From the commit on the operator's patience counts no more: whatever comes of it,
// one of the two has to serve.
func (n *Node) awaitSuccessor(client *control.Client, resource string, generation uint64) error {
	ctx, cancel := context.WithTimeout(n.ctx, takeOverLimit)
	defer cancel()
	_, err := client.TakeOver(ctx, &control.TakeOverRequest{Resource: resource, Generation: generation})
	return err
}

// takeBack makes this node Primary again, since the one that it has handed the role to does not serve. This is an ordinary promotion:
// the other one is fenced, and comes back by a resync.
func (n *Node) takeBack(replica *replication.Resource, to, resource string, cause error) error {
	ctx, cancel := context.WithTimeout(n.ctx, askLimit)
	defer cancel()
	failure := control.AsError(cause)
	code := control.CodeRefused
	if failure.Code == control.CodeTimeout {
		code = control.CodeTimeout
	}
	n.log.Warn("the new Primary does not serve, the role is taken back", "resource", resource, "peer", to, "error", cause)
	err := replica.Promote(ctx)
	if err == nil {
		return control.Errorf(code, "%s did not take %s over (%s); %s is Primary as before, since generation %d", to, resource, failure.Message, n.config.Name,
			replica.Status().Generation).WithHint("see `duet status %s` on %s", resource, to)
	}
	if errors.Is(err, replication.ErrRefused) || errors.Is(err, replication.ErrRejected) {
		return control.Errorf(code, "%s has %s, and did not say in time that it serves (%s); %s could not take it back: %v", to, resource, failure.Message, n.config.Name, err).
			WithHint("see `duet status %s`", resource)
	}
	return control.Errorf(control.CodeTimeout, "%s did not take %s over (%s), and %s could not take it back: %v", to, resource, failure.Message, n.config.Name, err).
		WithHint("run `duet primary %s` on %s", resource, n.config.Name)
}

// TakeOver implements control.Node.
func (n *Node) TakeOver(ctx context.Context, r *control.TakeOverRequest) (*control.TakeOver, error) {
	replica, err := n.openedReplica(ctx, r.Resource)
	if err != nil {
		return nil, err
	}
	if r.Generation > 0 {
		if err := replica.AwaitServing(ctx, r.Generation); err != nil {
			return nil, roleError("make "+n.config.Name+" Primary of "+r.Resource, err)
		}
		return &control.TakeOver{Incarnation: n.incarnation}, nil
	}
	if st := replica.Status(); st.DiskState != string(control.DiskUpToDate) {
		return nil, control.Errorf(control.CodeRefused, "the disk of %s is %s", n.config.Name, st.DiskState)
	}
	if err := n.mayLead(ctx, n.held(r.Resource)); err != nil {
		return nil, control.Errorf(control.CodeRefused, "%v", err)
	}
	return &control.TakeOver{Incarnation: n.incarnation}, nil
}

// openedReplica is the replica here, also of a resource that was created a moment ago, of which this node hears later than others.
func (n *Node) openedReplica(ctx context.Context, resource string) (*replication.Resource, error) {
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	if err := n.waitFor(ctx, resource+" to be opened here", func() bool { return n.held(resource) != nil }); err != nil {
		n.log.Debug("take over", "resource", resource, "error", err) // the next line says why
	}
	return n.replica(resource)
}
