package quorum

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Node is this process's part in the quorum.
//
// Goroutines: watchLoop (leadership, reachability, a failing store), addressLoop (keeps the Raft configuration's
// addresses right while leader), two acceptLoops, one short-lived handler per forwarded request and a long one per node whose
// beats come in, beatLoop and a beater per node that beats go to, the store's writeLoop, Raft's own, and one waiter per Raft
// future. Close ends them all.
type Node struct {
	cfg     Config
	log     *slog.Logger
	runID   string
	fsm     *fsm
	storage *Storage
	store   *deadlineStore
	stream  *streamLayer // nil when Config.Transport was given
	trans   raft.Transport
	raft    atomic.Pointer[raft.Raft] // nil only while Start is at work: the transport is up a little earlier
	forward net.Listener
	beats   net.Listener // nil: nothing is heard of the others

	changed *broadcast // public: the record or leadership changed
	leader  *broadcast // leadership changed
	view    leadership
	dials   dialHistory
	hearing *hearing

	ctx      context.Context // ends with Close; parent of every wait
	cancel   context.CancelFunc
	loops    sync.WaitGroup
	handling handlers
	hearers  handlers       // of beats
	beaters  sync.WaitGroup // one per other node
	waiters  sync.WaitGroup // of Raft futures

	callsMu sync.Mutex
	closing bool
	calls   sync.WaitGroup // public calls under way

	stopOnce  sync.Once
	stopped   chan struct{} // closed when Raft has ended
	closeOnce sync.Once
	closeErr  error
}

// closePatience bounds each wait of Close. What is not gone by then hangs in a disk that does not answer.
const closePatience = 10 * time.Second

// Start opens the store and starts Raft. ctx bounds Start alone; the Node lives until Close. A node that has never
// been part of a cluster stays idle until Bootstrap or Admit.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("quorum: start: %w", context.Cause(ctx))
	}
	runID, err := newRunID()
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg.withDefaults(), runID: runID,
		changed: &broadcast{}, leader: &broadcast{}, stopped: make(chan struct{}),
	}
	n.log = n.cfg.Logger
	n.fsm = newFSM(n.changed)
	n.handling.limit, n.hearers.limit = maxHandlers, 2*maxNodes
	n.hearing = newHearing(n.cfg.Node, n.cfg.Timing.Suspect, time.Now())
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if err := n.open(); err != nil {
		n.cancel()
		return nil, err
	}
	return n, nil
}

func newRunID() (string, error) {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", fmt.Errorf("quorum: run id: %w", err)
	}
	return hex.EncodeToString(id[:]), nil
}

// open brings up storage, transport, Raft and the loops, in this order, and takes down what it has when one fails.
func (n *Node) open() error {
	if err := n.openStorage(); err != nil {
		return err
	}
	if err := n.checkMember(); err != nil {
		return errors.Join(err, n.storage.close())
	}
	n.store = newDeadlineStore(n.storage.Log, n.storage.Stable, n.cfg.Timing.Store)
	n.trans = n.openTransport()
	observations := make(chan raft.Observation, observationsKept)
	r, err := n.newRaft()
	if err != nil {
		return errors.Join(fmt.Errorf("quorum: start Raft: %w", err), n.closeTransport(), n.store.close(), n.storage.close())
	}
	n.raft.Store(r)
	r.RegisterObserver(raft.NewObserver(observations, false, observed))
	n.forward = n.cfg.Accept(ChannelForward)
	n.loops.Go(func() { n.watchLoop(observations) })
	n.loops.Go(n.addressLoop)
	n.loops.Go(func() { n.acceptLoop(n.forward, ChannelForward, &n.handling, n.handle) })
	if n.beats = n.cfg.Accept(ChannelBeat); n.beats != nil {
		n.loops.Go(func() { n.acceptLoop(n.beats, ChannelBeat, &n.hearers, n.hear) })
		n.loops.Go(n.beatLoop)
	}
	return nil
}

// newRaft starts the library, on a goroutine of its own: a term that can't be stored ends the goroutine that stores it,
// see deadlineStore.SetUint64.
func (n *Node) newRaft() (r *raft.Raft, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r, err = raft.NewRaft(n.cfg.raftConfig(), n.fsm, n.store, n.store, n.storage.Snapshots, n.trans)
	}()
	<-done
	if r == nil && err == nil {
		err = n.store.err()
	}
	return r, err
}

func (n *Node) openStorage() (err error) {
	if n.cfg.Storage != nil {
		n.storage, err = n.cfg.Storage.checked()
		return err
	}
	if n.cfg.Member { // an empty store must not be made in the place of one that is elsewhere
		if _, err := os.Stat(filepath.Join(n.cfg.Dir, logFile)); errors.Is(err, fs.ErrNotExist) {
			return ErrStoreLost
		}
	}
	n.storage, err = openStorage(osFiles{}, n.cfg.Dir, raftLogger(n.log))
	return err
}

// checkMember refuses the empty log of a member. Snapshots don't count: the term and the vote are in the log.
func (n *Node) checkMember() error {
	if !n.cfg.Member {
		return nil
	}
	known, err := raft.HasExistingState(n.storage.Log, n.storage.Stable, raft.NewDiscardSnapshotStore())
	if err != nil {
		return fmt.Errorf("quorum: look into the Raft log: %w", err)
	}
	if !known {
		return ErrStoreLost
	}
	return nil
}

func (n *Node) openTransport() raft.Transport {
	if n.cfg.Transport != nil {
		return n.cfg.Transport
	}
	n.stream = &streamLayer{
		listener: n.cfg.Accept(ChannelRaft), advertise: n.cfg.Advertise, dial: n.cfg.Dial, nameOf: n.nameOf,
		self:     hello{Version: helloVersion, Node: n.cfg.Node, Incarnation: n.cfg.Incarnation, RunID: n.runID},
		vet:      func(other hello) error { return n.State().vet(other) },
		accepted: map[*acceptedStream]struct{}{},
	}
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                  n.stream,
		MaxPool:                 2, // one stream for entries, one for heartbeats
		MaxRPCsInFlight:         1, // pipelining wedges a follower whose disk has stalled until the leader restarts
		Timeout:                 n.cfg.Timing.Transport,
		Logger:                  raftLogger(n.log),
		MsgpackUseNewTimeFormat: true,
	})
}

func (n *Node) closeTransport() error {
	if closer, ok := n.trans.(raft.WithClose); ok {
		return closer.Close()
	}
	return nil
}

// nameOf returns the node that the Raft configuration has at address.
func (n *Node) nameOf(address string) string {
	for _, s := range n.servers() {
		if string(s.Address) == address {
			return string(s.ID)
		}
	}
	return ""
}

// servers returns the newest Raft configuration that this node knows, committed or not.
func (n *Node) servers() []raft.Server {
	r := n.raft.Load()
	if r == nil {
		return nil
	}
	future := r.GetConfiguration()
	if err := future.Error(); err != nil {
		return nil // never: the library answers this from memory
	}
	return slices.Clone(future.Configuration().Servers)
}

// State returns what is agreed on as far as this node has learned it. It is never changed: read it without a lock,
// keep it as long as you like.
func (n *Node) State() *State {
	s, _ := n.fsm.view()
	return s
}

// Changed returns a channel that the next change of State, or of who leads, closes. Take the channel before you look
// at State, then no change is missed.
func (n *Node) Changed() <-chan struct{} { return n.changed.wait() }

// Failed is closed when the log store has failed: this node votes no more until it is restarted.
func (n *Node) Failed() <-chan struct{} { return n.store.failed }

// enter admits a public call, which leave ends. It bounds the call and ties it to the life of the Node.
func (n *Node) enter(ctx context.Context) (context.Context, func(), error) {
	n.callsMu.Lock()
	defer n.callsMu.Unlock()
	if n.closing {
		return nil, nil, ErrClosed
	}
	n.calls.Add(1)
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Timing.Propose)
	detach := context.AfterFunc(n.ctx, cancel)
	return ctx, func() {
		detach()
		cancel()
		n.calls.Done()
	}, nil
}

// settle waits for a Raft future, but not longer than ctx. The waiter it leaves behind ends with the future, which
// Raft answers at the latest when it loses leadership.
func (n *Node) settle(ctx context.Context, future raft.Future) error {
	done := make(chan error, 1)
	n.waiters.Go(func() { done <- future.Error() })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-n.store.failed:
		return n.store.err()
	}
}

// stopRaft shuts Raft down, once. The channel is closed when Raft's goroutines have ended.
func (n *Node) stopRaft() <-chan struct{} {
	n.stopOnce.Do(func() {
		future := n.raft.Load().Shutdown()
		go func() {
			defer close(n.stopped)
			if err := future.Error(); err != nil {
				n.log.Warn("Raft did not shut down cleanly", "error", err)
			}
		}()
	})
	return n.stopped
}

// Close leaves the quorum without changing it: the others see this node as down. It waits for everything it started
// and may be called more than once.
func (n *Node) Close() error {
	n.closeOnce.Do(func() { n.closeErr = n.close() })
	return n.closeErr
}

func (n *Node) close() error {
	n.callsMu.Lock()
	n.closing = true
	n.callsMu.Unlock()
	n.cancel()
	errs := []error{closeListener(n.forward)}
	if n.beats != nil {
		errs = append(errs, closeListener(n.beats))
	}
	n.handling.closeAll()
	n.hearers.closeAll()
	errs = append(errs,
		within(n.loops.Wait, "loops"),
		within(n.handling.wait, "forwarded requests"),
		within(n.hearers.wait, "connections that beats come in by"),
		within(n.beaters.Wait, "connections that beats go out by"),
		within(n.calls.Wait, "calls"),
		// Before Raft ends: it does not answer every future once it is shut down.
		within(n.waiters.Wait, "answers of Raft"),
		within(func() { <-n.stopRaft() }, "Raft"),
		n.store.close(),
	)
	if n.stream != nil {
		errs = append(errs, within(n.stream.handlers.Wait, "Raft streams"))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the files stay open: whatever hangs may still be using them
	}
	return n.storage.close()
}

// closeListener closes a listener that its owner may have closed before.
func closeListener(l net.Listener) error {
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("quorum: %w", err)
	}
	return nil
}

// within waits for wait, but no longer than closePatience.
func within(wait func(), what string) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		wait()
	}()
	timer := time.NewTimer(closePatience)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return fmt.Errorf("quorum: close: %s did not end within %s", what, closePatience)
	}
}
