package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"duet/internal/control"
	"duet/internal/handlers"
	"duet/replication"
)

// fencers are the nodes that are being fenced, or were.
type fencers struct {
	mu   sync.Mutex
	runs map[string]*fencing
}

// fencing is one run of fence-peer.
type fencing struct {
	incarnation uint64 // of the process that is to be gone
	done        chan struct{}
	outcome     handlers.Outcome // once done is closed
}

// confirmed tells whether the process is known to be gone.
func (f *fencing) confirmed() bool {
	select {
	case <-f.done:
		return !f.outcome.None && f.outcome.Err == nil
	default:
		return false
	}
}

// fencePeer has the Primary that is to be replaced shot, where there is a handler for it, and it is not known to be gone: its
// node has not registered a newer process, and nobody has seen it end. Only where a majority is reached: a node that is cut off itself must not shoot.
// The run goes on without the caller, and serves all resources at once.
func (n *Node) fencePeer(ctx context.Context, h *held) error {
	if !n.handlers.Has(handlers.FencePeer) {
		return nil
	}
	record, err := n.newest(ctx, h.name)
	if err != nil {
		return err
	}
	if record.Primary == "" || record.Primary == n.config.Name || !n.quorum.State().Serves(record) ||
		n.quorum.Liveness().Nodes[record.Primary].Exited >= record.PrimaryIncarnation {
		return nil
	}
	facts := n.facts(h, control.RoleSecondary)
	facts.Peer, facts.PeerAddress = record.Primary, n.quorum.State().Nodes[record.Primary].Address
	facts.Reason = n.config.Name + " is to become Primary instead of " + record.Primary
	run := n.fence(facts, record.PrimaryIncarnation)
	select {
	case <-run.done:
	case <-ctx.Done():
		return fmt.Errorf("%s is still being fenced: %w", record.Primary, context.Cause(ctx))
	}
	if run.outcome.None || run.confirmed() || n.config.Fencing == fencingTry {
		return nil
	}
	return fmt.Errorf("it is not confirmed that %s was fenced: %w", record.Primary, run.outcome.Failed())
}

// fencingTry is the value of node.yaml's `fencing` that has a promotion go on without a confirmation.
const fencingTry = "try"

// fence joins the run under way for this process, or one that has confirmed, or begins one.
func (n *Node) fence(facts handlers.Facts, incarnation uint64) *fencing {
	n.fences.mu.Lock()
	defer n.fences.mu.Unlock()
	if run := n.fences.runs[facts.Peer]; run != nil && run.incarnation == incarnation {
		select {
		case <-run.done:
			if run.confirmed() {
				return run
			}
		default:
			return run
		}
	}
	run := &fencing{incarnation: incarnation, done: make(chan struct{})}
	if n.fences.runs == nil {
		n.fences.runs = map[string]*fencing{}
	}
	n.fences.runs[facts.Peer] = run
	n.loops.Go(func() {
		defer close(run.done)
		run.outcome = n.handlers.Run(n.ctx, handlers.FencePeer, facts)
		n.fenced(facts, run)
	})
	return run
}

// fenced tells how it ended. Exit status 1 says that the node runs on; of everything else nothing is known.
func (n *Node) fenced(facts handlers.Facts, run *fencing) {
	word, reason := "unknown", ""
	switch o := &run.outcome; {
	case !o.None && o.Err == nil:
		n.quorum.Exited(facts.Peer, run.incarnation)
		for _, h := range n.allHeld() {
			if h.resource != nil {
				h.resource.Exited(facts.Peer, run.incarnation) // who waits for its leases need not
			}
		}
		word, reason = "confirmed", fmt.Sprintf("%s is off, as of incarnation %d", facts.Peer, run.incarnation)
	case o.Code == 1:
		word, reason = "failed", o.Failed().Error()
	case o.Err != nil:
		reason = o.Failed().Error()
	}
	n.emit(replication.Event{Time: time.Now(), Resource: facts.Resource, Kind: "fence", Peer: facts.Peer, To: word, Reason: reason, Generation: facts.Generation})
}
