package node

import (
	"context"

	"duet/internal/control"
	"duet/replication"
)

// Explain implements control.Node.
func (n *Node) Explain(ctx context.Context, resource string) (*control.Explanation, error) {
	replica, err := n.replica(resource)
	if err != nil {
		return nil, err
	}
	e, err := replica.Explain(ctx)
	if err != nil {
		return nil, roleError("explain "+resource, err)
	}
	return explanation(&e), nil
}

// explanation is what replication says, as the operator sees it.
func explanation(e *replication.Explanation) *control.Explanation {
	out := &control.Explanation{Resource: e.Resource, Node: e.Node, Role: control.Role(e.Role), Generation: e.Generation, Primary: e.Primary,
		InSync: e.InSync, Standing: e.Standing, Source: e.Source, Peers: make([]control.PeerExplanation, 0, len(e.Peers))}
	for _, p := range e.Peers {
		peer := control.PeerExplanation{Name: p.Peer, Generation: p.Generation, Result: p.Result, Reason: p.Reason,
			Facts: make([]control.Fact, 0, len(p.Facts)), Rules: make([]control.TriedRule, 0, len(p.Rules))}
		for _, fact := range p.Facts {
			peer.Facts = append(peer.Facts, control.Fact(fact))
		}
		for _, rule := range p.Rules {
			peer.Rules = append(peer.Rules, control.TriedRule(rule))
		}
		out.Peers = append(out.Peers, peer)
	}
	return out
}
