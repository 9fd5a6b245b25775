package quorum

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Removal says which node is to go, and what of its replicas.
type Removal struct {
	Node         string
	WithReplicas bool // those go as well; else there may be none
	GiveUp       bool // also one that is a side of a split that nobody has decided about
	Reason       string
}

// removalRounds bounds how often a removal is tried again because a resource has changed meanwhile.
const removalRounds = 10

// Remove takes a node out of the cluster for good: first its vote and its place in the log, then its place in the record. It
// needs no answer of that node. It may be repeated after an interruption; a removal that the record refuses in the end gives
// the vote back. The node itself can't ask for it: without a place in the log it would not learn the end.
func (n *Node) Remove(ctx context.Context, r Removal) error {
	known, err := n.mayRemove(ctx, r)
	if err != nil {
		return err
	}
	old, voted := n.server(r.Node)
	if err := n.RemoveVoter(ctx, r.Node); err != nil || !known {
		return err
	}
	err = n.forget(ctx, r)
	if voted && old.Suffrage == raft.Voter && errors.Is(err, ErrRefused) && n.State().hasNode(r.Node) {
		return errors.Join(err, n.AddVoter(ctx, r.Node, string(old.Address)))
	}
	return err
}

// mayRemove asks the guards before anything is done. A node that only Raft still knows is left over from a removal that was
// interrupted, or from a join.
func (n *Node) mayRemove(ctx context.Context, r Removal) (known bool, err error) {
	if r.Node == n.cfg.Node {
		return false, refusef("%s can't remove itself; another node has to be asked", r.Node)
	}
	if err := n.Barrier(ctx); err != nil {
		return false, err
	}
	s := n.State()
	if _, left := n.server(r.Node); left && !s.hasNode(r.Node) {
		return false, nil
	}
	_, out := apply(s, s.removal(r))
	return true, errorOf(out.Code, out.Reason)
}

// forget takes the node out of the record, and waits until this node knows.
func (n *Node) forget(ctx context.Context, r Removal) error {
	for round := 1; ; round++ {
		result, err := n.Propose(ctx, n.State().removal(r))
		if err == nil {
			return n.fsm.await(ctx, result.Index)
		}
		if round == removalRounds || !errors.Is(err, ErrStale) && !errors.Is(err, ErrUnknownOutcome) {
			return err
		}
		if err := n.Barrier(ctx); err != nil {
			return err
		}
		if !n.State().hasNode(r.Node) {
			return nil
		}
	}
}

// removal is the command that removes the node from the record as it is.
func (s *State) removal(r Removal) Command {
	c := RemoveNode{Node: r.Node, Generations: map[string]uint64{}, Reason: r.Reason, GiveUp: r.GiveUp, Now: time.Now().Unix()}
	for _, resource := range s.sortedResources() {
		if resource.replica(r.Node) != nil && r.WithReplicas {
			c.Generations[resource.Name] = resource.Generation
		}
	}
	return c
}

// Replicas is the resources that node has a replica of, by name.
func (s *State) Replicas(node string) []string {
	var names []string
	for _, r := range s.sortedResources() {
		if r.replica(node) != nil {
			names = append(names, r.Name)
		}
	}
	return names
}

// removeVoter does it here, as leader. A leader hands leadership over first: then the change is another's to commit, and the
// asker finds that one.
func (n *Node) removeVoter(ctx context.Context, node string) error {
	old, found := n.server(node)
	if !found {
		return nil
	}
	if old.Suffrage == raft.Voter {
		if err := n.majorityWithout(ctx, node); err != nil {
			return err
		}
	}
	if node == n.cfg.Node {
		if err := n.transfer(ctx, ""); err != nil {
			return err
		}
		return raft.ErrNotLeader
	}
	return n.settle(ctx, n.raft.Load().RemoveServer(raft.ServerID(node), 0, n.patience(ctx)))
}

// majorityWithout says why the voters that would be left, and answer, are too few to decide anything. The library goes by the new
// configuration from the moment that it is in the log: with too few of those it can't be committed, nor taken back, nor anything
// else be decided. So they are asked now: that one is gone is noticed only after a while.
func (n *Node) majorityWithout(ctx context.Context, node string) error {
	var voters, up []string
	for _, v := range n.Status().Voters {
		if !v.Votes || v.Node == node {
			continue
		}
		voters = append(voters, v.Node)
		if v.Node == n.cfg.Node || v.Reach == ReachYes && n.answers(ctx, v) {
			up = append(up, v.Node)
		}
	}
	need := len(voters)/2 + 1
	switch {
	case len(voters) == 0:
		return refusef("%s is the last voter", node)
	case len(up) < need:
		slices.Sort(voters)
		slices.Sort(up)
		return refusef("without %s the voters are %s, %d of them are a majority, and only %s answers", node,
			strings.Join(voters, ", "), need, strings.Join(up, ", "))
	}
	return nil
}

// answers reports whether a voter takes a connection.
func (n *Node) answers(ctx context.Context, v Voter) bool {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Timing.Transport)
	defer cancel()
	conn, err := n.cfg.Dial(ctx, v.Address, v.Node, ChannelForward)
	if err != nil {
		n.log.Info("a voter does not answer", "peer", v.Node, "error", err)
		return false
	}
	n.closeQuietly(conn)
	return true
}
