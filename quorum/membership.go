package quorum

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// Bootstrap makes this node the first of a new cluster: the only voter, recorded as a data node. It may be repeated
// after an interruption. Register comes after it, as at every start.
func (n *Node) Bootstrap(ctx context.Context, clusterID string) error {
	return n.BootstrapAs(ctx, InitCluster{ClusterID: clusterID, Node: n.cfg.Node, Address: n.cfg.Advertise, Kind: Data})
}

// BootstrapAs is Bootstrap with the record of the first node given.
func (n *Node) BootstrapAs(ctx context.Context, first InitCluster) error {
	callCtx, leave, err := n.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	alone := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(n.cfg.Node), Address: n.trans.LocalAddr(),
	}}}
	err = n.settle(callCtx, n.raft.Load().BootstrapCluster(alone))
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("quorum: bootstrap: %w", err)
	}
	// A node that is part of another cluster already is refused here, by the record.
	_, err = n.Propose(callCtx, first)
	return err
}

// Admit makes this node a voter: the cluster knows it (JoinNode) and its Raft is still empty. It first receives the
// log without a vote, so that a node that never comes up does not cost the cluster its majority.
func (n *Node) Admit(ctx context.Context) error {
	self := request{Node: n.cfg.Node, Address: string(n.trans.LocalAddr()), Repeatable: true}
	self.Op = opAddNonvoter
	if _, err := n.call(ctx, self); err != nil {
		return fmt.Errorf("quorum: admit %s: %w", n.cfg.Node, err)
	}
	if err := n.Barrier(ctx); err != nil {
		return fmt.Errorf("quorum: admit %s: %w", n.cfg.Node, err)
	}
	self.Op = opAddVoter
	if _, err := n.call(ctx, self); err != nil {
		return fmt.Errorf("quorum: admit %s: %w", n.cfg.Node, err)
	}
	return nil
}

// AddVoter gives a node that the cluster knows a vote, or a new address.
func (n *Node) AddVoter(ctx context.Context, node, address string) error {
	_, err := n.call(ctx, request{Op: opAddVoter, Node: node, Address: address, Repeatable: true})
	return err
}

// RemoveVoter takes a node's vote and its place in the log. It does not touch the record; Remove does both.
func (n *Node) RemoveVoter(ctx context.Context, node string) error {
	_, err := n.call(ctx, request{Op: opRemoveVoter, Node: node, Repeatable: true})
	return err
}

// TransferLeadership hands leadership to a node, or to whoever is best if node is "". Leadership is best kept away
// from a Primary: then its death needs no election.
func (n *Node) TransferLeadership(ctx context.Context, node string) error {
	_, err := n.call(ctx, request{Op: opTransfer, Node: node})
	return err
}

// executeMembership does a change of the Raft configuration, or of leadership, here as leader.
func (n *Node) executeMembership(ctx context.Context, q request) reply {
	s, a := n.current(ctx)
	if a.Code != codeOK {
		return a
	}
	var err error
	switch q.Op {
	case opAddNonvoter:
		err = n.addNonvoter(ctx, s, q)
	case opAddVoter:
		err = n.addVoter(ctx, s, q)
	case opRemoveVoter:
		err = n.removeVoter(ctx, q.Node)
	case opTransfer:
		err = n.transfer(ctx, q.Node)
	}
	switch {
	case err == nil:
		return reply{Code: codeOK}
	case errors.Is(err, ErrRefused):
		return reply{Code: codeRefused, Reason: Reason(err)}
	default:
		return replyTo(err)
	}
}

// addNonvoter lets a joining node receive the log. One that joins again under its old name has lost its votes, so its
// old place, with its right to vote, goes first.
func (n *Node) addNonvoter(ctx context.Context, s *State, q request) error {
	record, err := s.joined(q)
	if err != nil {
		return err
	}
	if old, found := n.server(q.Node); found && record.Pending && old.Suffrage == raft.Voter {
		if err := n.removeVoter(ctx, q.Node); err != nil {
			return err
		}
	}
	id, address := raft.ServerID(q.Node), raft.ServerAddress(q.Address)
	return n.settle(ctx, n.raft.Load().AddNonvoter(id, address, 0, n.patience(ctx)))
}

func (n *Node) addVoter(ctx context.Context, s *State, q request) error {
	if _, err := s.joined(q); err != nil {
		return err
	}
	id, address := raft.ServerID(q.Node), raft.ServerAddress(q.Address)
	return n.settle(ctx, n.raft.Load().AddVoter(id, address, 0, n.patience(ctx)))
}

// joined returns the record of the node that q names. Only nodes of the cluster get a place in the Raft configuration.
func (s *State) joined(q request) (NodeRecord, error) {
	record, known := s.Nodes[q.Node]
	switch {
	case !known:
		return NodeRecord{}, refusef("%s is not a node of this cluster; it has to join with a token", quoted(q.Node))
	case q.Address == "" || len(q.Address) > maxAddress:
		return NodeRecord{}, refusef("%s needs an address of 1 to %d bytes", q.Node, maxAddress)
	}
	return record, nil
}

func (n *Node) transfer(ctx context.Context, node string) error {
	if node == "" {
		return n.transferred(ctx, n.raft.Load().LeadershipTransfer())
	}
	target, found := n.server(node)
	switch {
	case !found || target.Suffrage != raft.Voter:
		return refusef("%s is not a voter", quoted(node))
	case node == n.cfg.Node:
		return nil
	}
	return n.transferred(ctx, n.raft.Load().LeadershipTransferToServer(target.ID, target.Address))
}

// transferred waits for a transfer. That it fails is no unknown outcome: leadership is where it was.
func (n *Node) transferred(ctx context.Context, future raft.Future) error {
	if err := n.settle(ctx, future); err != nil {
		return refusef("leadership could not be handed over: %v", err)
	}
	return nil
}

func (n *Node) server(node string) (raft.Server, bool) {
	for _, s := range n.servers() {
		if string(s.ID) == node {
			return s, true
		}
	}
	return raft.Server{}, false
}

// patience is how long a configuration change may wait for its turn.
func (n *Node) patience(ctx context.Context) time.Duration {
	if deadline, bounded := ctx.Deadline(); bounded {
		return max(time.Until(deadline), time.Millisecond)
	}
	return n.cfg.Timing.Transport
}

// addressRetry is the pause before an address that could not be brought into the configuration is tried again.
const addressRetry = time.Second

// addressLoop makes the Raft configuration follow the addresses that nodes registered, while this node leads. It owns
// nothing, is woken by every applied command and change of leader, and ends with Close.
func (n *Node) addressLoop() {
	for {
		applied, led := n.fsm.applied.wait(), n.leader.wait()
		var retry <-chan time.Time
		if err := n.followAddresses(); err != nil {
			n.log.Info("the address of a node could not be changed yet", "error", err)
			retry = time.After(addressRetry)
		}
		select {
		case <-applied:
		case <-led:
		case <-retry:
		case <-n.ctx.Done():
			return
		}
	}
}

func (n *Node) followAddresses() error {
	if !n.leads() || n.moved(n.State()) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.Timing.Propose)
	defer cancel()
	// What was seen may be replayed history, with an address that is older than the configuration's.
	s, a := n.current(ctx)
	if a.Code != codeOK {
		return errorOf(a.Code, a.Reason)
	}
	server := n.moved(s)
	if server == nil {
		return nil
	}
	address := raft.ServerAddress(s.Nodes[string(server.ID)].Address)
	n.log.Info("address of a node changed", "node", server.ID, "from", server.Address, "to", address)
	if server.Suffrage == raft.Voter {
		return n.settle(ctx, n.raft.Load().AddVoter(server.ID, address, 0, n.patience(ctx)))
	}
	return n.settle(ctx, n.raft.Load().AddNonvoter(server.ID, address, 0, n.patience(ctx)))
}

// moved returns a server whose registered address differs from the configuration's.
func (n *Node) moved(s *State) *raft.Server {
	for _, server := range n.servers() {
		if record, known := s.Nodes[string(server.ID)]; known && !record.Pending && record.Address != string(server.Address) {
			return &server
		}
	}
	return nil
}
