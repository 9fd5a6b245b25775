package quorum

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// maxHops is how often a request may be handed on: from its proposer to some voter, and from there to the leader.
// Together with the list of nodes visited it keeps requests from going round.
const maxHops = 2

// dialMemory is how long a node that could not be reached is asked last.
const dialMemory = 2 * time.Second

// peer is a node to hand a request to.
type peer struct{ node, address string }

// route gets a request to the leader: here, directly, or through any voter that will take it. It tries each way once.
// It never tries another way once a request that is not repeatable may have been executed.
func (n *Node) route(ctx context.Context, q request) reply {
	if n.leads() {
		if a := n.execute(ctx, q); a.Code != codeNoLeader {
			return a
		}
	}
	last := reply{Code: codeNoLeader, Reason: "no other voter is known"}
	if q.Hops == 0 {
		return last
	}
	q.Hops--
	q.Visited = append(slices.Clone(q.Visited), n.cfg.Node)
	var tried []error
	for _, p := range n.candidates(q.Visited) {
		a, err := n.exchange(ctx, p, q)
		if err != nil {
			tried = append(tried, err)
			continue
		}
		if a.Code != codeNoLeader && (a.Code != codeUnknown || !q.Repeatable) {
			return a
		}
		last = a
	}
	if len(tried) > 0 {
		last.Reason = errors.Join(append(tried, errors.New(last.Reason))...).Error()
	}
	return last
}

// candidates lists where a request may go next: the leader first, then the other voters, then the seeds; those that
// could not be reached a moment ago come last.
func (n *Node) candidates(visited []string) []peer {
	var peers []peer
	add := func(p peer) {
		known := func(q peer) bool { return q.address == p.address || p.node != "" && q.node == p.node }
		if p.address != "" && p.address != n.cfg.Advertise && !slices.Contains(visited, p.node) && !slices.ContainsFunc(peers, known) {
			peers = append(peers, p)
		}
	}
	_, leader := n.raft.Load().LeaderWithID()
	servers, nodes := n.servers(), n.State().Nodes
	slices.SortStableFunc(servers, func(a, b raft.Server) int { return cmp.Compare(boolRank(a.ID == leader), boolRank(b.ID == leader)) })
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			// The record has the newer address when the configuration has not caught up with a node that moved.
			add(peer{node: string(s.ID), address: cmp.Or(nodes[string(s.ID)].Address, string(s.Address))})
		}
	}
	for _, s := range n.cfg.Seeds {
		add(peer{node: s.Node, address: s.Address})
	}
	slices.SortStableFunc(peers, func(a, b peer) int {
		return cmp.Compare(boolRank(!n.dials.failedLately(a.address)), boolRank(!n.dials.failedLately(b.address)))
	})
	return peers
}

// boolRank sorts what is true to the front.
func boolRank(first bool) int {
	if first {
		return 0
	}
	return 1
}

// exchange sends a request over a connection of its own and waits for the reply. An error means that the request was
// certainly not executed; from the first byte sent on, a failure is a reply with an unknown outcome. A connection that
// was kept open could not tell these two apart when the other end has closed it meanwhile.
func (n *Node) exchange(ctx context.Context, p peer, q request) (reply, error) {
	deadline, bounded := ctx.Deadline()
	if !bounded {
		deadline = time.Now().Add(n.cfg.Timing.Propose)
	}
	q.TimeoutMillis = time.Until(deadline).Milliseconds()
	if q.TimeoutMillis <= 0 {
		return reply{}, fmt.Errorf("quorum: no time left to ask %s", p.address)
	}
	dialCtx, cancel := context.WithTimeout(ctx, n.cfg.Timing.Dial)
	defer cancel()
	conn, err := n.cfg.Dial(dialCtx, p.address, p.node, ChannelForward)
	n.dials.note(p.address, err == nil)
	if err != nil {
		return reply{}, fmt.Errorf("%s (%s) can't be reached: %w", cmp.Or(p.node, "a seed"), p.address, err)
	}
	// The call's end closes the connection too: a caller that gives up does not wait for the deadline.
	hangUp := context.AfterFunc(ctx, func() { n.closeQuietly(conn) })
	defer func() {
		if hangUp() {
			n.closeQuietly(conn)
		}
	}()
	a, err := converse(conn, deadline, q)
	if err != nil {
		return reply{Code: codeUnknown, Reason: fmt.Sprintf("no answer from %s (%s): %v", cmp.Or(p.node, "a seed"), p.address, err)}, nil
	}
	return a, nil
}

// dialHistory remembers which addresses could not be reached a moment ago. The zero value is ready.
type dialHistory struct {
	mu     sync.Mutex
	failed map[string]time.Time
}

func (h *dialHistory) note(address string, reached bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if reached || h.failed == nil || len(h.failed) > maxNodes {
		h.failed = prune(h.failed, address)
	}
	if !reached {
		h.failed[address] = time.Now()
	}
}

// prune drops an address and everything that is too old to matter, so that the map stays small.
func prune(failed map[string]time.Time, address string) map[string]time.Time {
	kept := map[string]time.Time{}
	for a, at := range failed {
		if a != address && time.Since(at) < dialMemory {
			kept[a] = at
		}
	}
	return kept
}

func (h *dialHistory) failedLately(address string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, failed := h.failed[address]
	return failed && time.Since(at) < dialMemory
}
