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
)

// NodeRemove implements control.Node. The node that goes is not asked for anything.
func (n *Node) NodeRemove(ctx context.Context, r *control.NodeRemoveRequest) (*control.NodeRemoval, error) {
	if r.Node == n.config.Name {
		return nil, control.Errorf(control.CodeRefused, "%s can't remove itself", r.Node).
			WithHint("run `duet node remove %s` on another node; this one's daemon stops then", r.Node)
	}
	if err := n.quorum.Barrier(ctx); err != nil {
		return nil, proposeError("remove "+r.Node, err)
	}
	state := n.quorum.State()
	replicas := state.Replicas(r.Node)
	if err := mayRemoveNode(state, r, replicas); err != nil {
		return nil, err
	}
	err := n.quorum.Remove(ctx, quorum.Removal{Node: r.Node, WithReplicas: r.WithReplicas || r.Force, GiveUp: r.Force, Reason: "asked for on " + n.config.Name})
	if err != nil {
		return nil, proposeError("remove "+r.Node, err)
	}
	n.log.Info("node removed", "peer", r.Node, "replicas", replicas)
	n.journal.add(control.Event{Peer: r.Node, Kind: "member", New: "removed", Message: r.Node + " was removed from the cluster"})
	out := &control.NodeRemoval{Node: r.Node, Replicas: append([]string{}, replicas...), Voters: n.voters(r.Node)}
	out.Warnings = removalNotes(n.quorum.State(), out)
	return out, nil
}

// mayRemoveNode says what to do where the record would refuse.
func mayRemoveNode(state *quorum.State, r *control.NodeRemoveRequest, replicas []string) error {
	for _, name := range replicas {
		err := mayRemoveReplica(state.Resources[name], &control.ReplicaRemoveRequest{Node: r.Node, Force: r.Force})
		if err != nil {
			return err
		}
	}
	if len(replicas) > 0 && !r.WithReplicas && !r.Force {
		return control.Errorf(control.CodeRefused, "%s has replicas of %s", r.Node, strings.Join(replicas, ", ")).
			WithHint("`duet resource remove-replica RESOURCE %s` for each, or --with-replicas", r.Node)
	}
	return nil
}

// voters is who votes after a removal.
func (n *Node) voters(removed string) []string {
	names := []string{}
	for _, v := range n.quorum.Status().Voters {
		if v.Votes && v.Node != removed {
			names = append(names, v.Node)
		}
	}
	slices.Sort(names)
	return names
}

// removalNotes are what the cluster can't do any more.
func removalNotes(state *quorum.State, r *control.NodeRemoval) []string {
	var all []string
	if len(r.Voters) == 2 {
		remedy := "a witness (`duet join --witness`) prevents that"
		if slices.ContainsFunc(r.Voters, func(name string) bool { return state.Nodes[name].Kind == quorum.Witness }) {
			remedy = "a further node (`duet join`) prevents that"
		}
		all = append(all, fmt.Sprintf("the cluster has two voters now, %s and %s: when one is lost, nothing can be decided, and a Primary that "+
			"loses its peer waits; %s", r.Voters[0], r.Voters[1], remedy))
	}
	for _, name := range r.Replicas {
		if resource := state.Resources[name]; resource != nil && len(resource.Replicas) == 1 {
			all = append(all, fmt.Sprintf("%s has only one replica left: nothing survives the loss of its disk", name))
		}
	}
	return all
}

// expelled is why a daemon ends whose node is no member any more.
type expelled struct{ error }

func (n *Node) errRemoved(reason string) error {
	return expelled{fmt.Errorf("%s is not a member of the cluster any more (%s): to take part again, move %s away and join with a new token "+
		"(duet token, on a member); what its disks hold stays there", n.config.Name, reason, n.dir)}
}

// whyExpelled is the reason for which ctx ended, if this node was expelled; else err.
func whyExpelled(ctx context.Context, err error) error {
	if why := (expelled{}); errors.As(context.Cause(ctx), &why) {
		return why
	}
	return err
}

// membershipInterval is how often a node that hears nothing of the others asks whether it still belongs to them.
const membershipInterval = time.Second

// watchMembership finds out that this node was removed, or that the quorum was rebuilt without it: nothing is sent to it any more, so it
// has to ask. As long as there is a leader of the quorum that it votes in, it goes on whatever others say. It owns nothing, is woken by a
// timer, and ends with the node, or by expelling it.
func (n *Node) watchMembership(expel context.CancelCauseFunc) {
	ticker := time.NewTicker(membershipInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-n.ctx.Done():
			return
		}
		if n.quorum.Status().Leader != "" && n.votes() {
			continue
		}
		if reason := n.askMembership(); reason != "" {
			expel(n.errRemoved(reason))
			return
		}
	}
}

// askMembership is why this node is no member, as others say; "" if it is one, or nobody says.
func (n *Node) askMembership() string {
	n.mu.Lock()
	ready := n.ready
	n.mu.Unlock()
	if ready {
		ctx, cancel := context.WithTimeout(n.ctx, membershipInterval)
		defer cancel()
		if _, err := n.quorum.Read(ctx, ""); errors.Is(err, quorum.ErrRefused) {
			return quorum.Reason(err)
		}
	}
	if other := n.outlived.Load(); other != nil {
		return other.Error()
	}
	return ""
}

// tellRecovery notes in the events that the quorum was rebuilt once.
func (n *Node) tellRecovery() {
	state := n.quorum.State()
	if len(state.Recoveries) == 0 {
		return
	}
	last := state.Recoveries[len(state.Recoveries)-1]
	message := fmt.Sprintf("the quorum was rebuilt on %s at %s, without %s; what they committed alone may be missing", last.Node,
		time.Unix(last.Time, 0).UTC().Format(time.DateTime)+" UTC", strings.Join(last.GivenUp, ", "))
	n.log.Warn("recovery", "number", last.Number, "reason", message)
	n.journal.add(control.Event{Kind: "recovery", New: fmt.Sprint(last.Number), Message: message})
}
