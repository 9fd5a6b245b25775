package quorum

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// Propose has a command committed, through the leader wherever that is, and returns what became of it. It waits
// through elections until ctx ends. The error is ErrStale, ErrRefused, ErrNoLeader (not executed), ErrUnknownOutcome
// or ErrClosed; see there. The result counts at once, before this node's own State shows it.
func (n *Node) Propose(ctx context.Context, c Command) (Result, error) {
	data, err := encodeCommand(c)
	if err != nil {
		return Result{}, err
	}
	return n.call(ctx, request{Op: opPropose, Command: data})
}

// repeat is Propose for a command that may be committed twice: it tries again when the outcome is unknown.
func (n *Node) repeat(ctx context.Context, c Command) (Result, error) {
	data, err := encodeCommand(c)
	if err != nil {
		return Result{}, err
	}
	return n.call(ctx, request{Op: opPropose, Command: data, Repeatable: true})
}

// Register makes this process the current incarnation of its node. Only this repeats itself after an unknown outcome,
// because the registration names the process. ErrRefused means that the node's directory is a copy or was restored
// from a backup, or that the node was removed: then this process must not go on.
func (n *Node) Register(ctx context.Context, nbdAddress string) (Result, error) {
	return n.repeat(ctx, RegisterNode{
		Node: n.cfg.Node, Incarnation: n.cfg.Incarnation, RunID: n.runID, BootID: n.cfg.BootID,
		Address: n.cfg.Advertise, NBDAddress: nbdAddress,
	})
}

// Read returns the newest record of a resource, from any node: the leader reads it after a commit that began after
// the call. A node that the leader can't reach learns here what became of a command. Result.Resource is nil when there
// is no such resource, and has its whole history.
func (n *Node) Read(ctx context.Context, resource string) (Result, error) {
	return n.call(ctx, request{Op: opRead, Resource: resource, Repeatable: true})
}

// Barrier returns when State has in it everything that was committed before the call. Until the first Barrier after a
// start, State is replayed history and nobody may act on it.
func (n *Node) Barrier(ctx context.Context) error {
	ctx, leave, err := n.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	result, err := n.repeat(ctx, mark{})
	if err != nil {
		return err
	}
	return n.closedOr(n.fsm.await(ctx, result.Index))
}

// Backoff of a proposer that finds no leader: the first is below an election, the last keeps a long outage quiet.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 200 * time.Millisecond
)

// call gets a request done, and tries again while that can't do harm.
func (n *Node) call(ctx context.Context, q request) (Result, error) {
	ctx, leave, err := n.enter(ctx)
	if err != nil {
		return Result{}, err
	}
	defer leave()
	q.Version, q.Hops = forwardVersion, maxHops
	pause := firstPause
	for {
		moved := n.leader.wait()
		a := n.route(ctx, q)
		again := a.Code == codeNoLeader || a.Code == codeUnknown && q.Repeatable
		if !again || ctx.Err() != nil {
			return a.Result, n.closedOr(errorOf(a.Code, a.Reason))
		}
		timer := time.NewTimer(pause)
		select {
		case <-moved:
		case <-timer.C:
			pause = min(2*pause, lastPause)
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// closedOr returns ErrClosed beside err when the Node is closing, which explains it.
func (n *Node) closedOr(err error) error {
	if err != nil && n.ctx.Err() != nil {
		return errors.Join(ErrClosed, err)
	}
	return err
}

// leads reports whether this node believes to be leader. Only a commit proves it.
func (n *Node) leads() bool {
	return n.store.err() == nil && n.raft.Load().State() == raft.Leader
}

// execute does a request here, as leader.
func (n *Node) execute(ctx context.Context, q request) reply {
	switch q.Op {
	case opPropose:
		return n.executeCommand(ctx, q.Command)
	case opRead:
		return n.executeRead(ctx, q.Resource)
	case opAddNonvoter, opAddVoter, opRemoveVoter, opTransfer:
		return n.executeMembership(ctx, q)
	default:
		return reply{Code: codeRefused, Reason: fmt.Sprintf("unknown operation %q", q.Op)}
	}
}

// executeCommand commits a command and returns its outcome. A command that this node does not understand never gets
// into the log.
func (n *Node) executeCommand(ctx context.Context, data []byte) reply {
	if _, err := decodeCommand(data); err != nil {
		return reply{Code: codeRefused, Reason: err.Error()}
	}
	future := n.raft.Load().Apply(data, n.cfg.Timing.Transport)
	if err := n.settle(ctx, future); err != nil {
		return replyTo(err)
	}
	out, ok := future.Response().(outcome)
	if !ok {
		return reply{Code: codeUnknown, Reason: fmt.Sprintf("the state machine answered %T", future.Response())}
	}
	return reply{Code: out.Code, Reason: out.Reason, Result: out.Result}
}

// replyTo says what an error of Raft means for the proposer. Raft answers with a few errors before it has touched its
// log; every other one leaves the outcome open.
func replyTo(err error) reply {
	for _, never := range []error{raft.ErrNotLeader, raft.ErrEnqueueTimeout, raft.ErrLeadershipTransferInProgress} {
		if errors.Is(err, never) {
			return reply{Code: codeNoLeader, Reason: err.Error()}
		}
	}
	return reply{Code: codeUnknown, Reason: err.Error()}
}

// current commits a mark and waits until it is applied here. After it, State is what every earlier command left, and
// this node was leader at some moment since the call began.
func (n *Node) current(ctx context.Context) (*State, reply) {
	data, err := encodeCommand(mark{})
	if err != nil {
		return nil, reply{Code: codeUnknown, Reason: err.Error()}
	}
	a := n.executeCommand(ctx, data)
	if a.Code != codeOK {
		return nil, a
	}
	if err := n.fsm.await(ctx, a.Result.Index); err != nil {
		return nil, reply{Code: codeUnknown, Reason: err.Error()}
	}
	return n.State(), a
}

func (n *Node) executeRead(ctx context.Context, resource string) reply {
	s, a := n.current(ctx)
	if a.Code == codeOK {
		a.Result.Version, a.Result.Resource = s.Version, s.Resources[resource]
	}
	return a
}
