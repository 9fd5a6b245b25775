package node

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"duet/internal/control"
	"duet/quorum"
	"duet/replication"
)

// Bounds of what automatic promotion does; docs/TAKEOVER.md has the rules.
const (
	attemptLimit    = 30 * time.Second // of one promotion, with its handlers
	attemptPause    = 100 * time.Millisecond
	attemptPauseMax = 5 * time.Second
	unusablePause   = 250 * time.Millisecond // until a disk that can't be used is looked at again
	silentPause     = 50 * time.Millisecond  // until the Primary here is told again of a member that is not heard
	placeInterval   = 5 * time.Second        // between two attempts to hand leadership of Raft over
	placeLimit      = 2 * time.Second
)

// TakeoverConfig is what automatic promotion needs.
type TakeoverConfig struct {
	Node        string
	Incarnation uint64
	Quorum      *quorum.Node
	// Replica returns what this node has of a resource, nil: nothing that is open.
	Replica func(resource string) *replication.Resource
	// Promote makes the replica here Primary; nil: by its method.
	Promote func(ctx context.Context, resource, why string) error
	Logger  *slog.Logger
}

// Takeover promotes the replicas of this node when that is due, and keeps Raft's leadership away from Primaries.
type Takeover struct {
	cfg    TakeoverConfig
	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup
	wake   chan struct{} // an attempt has ended

	mu       sync.Mutex
	pending  map[string]*pendingTakeover
	placedAt time.Time
	placing  bool
}

// pendingTakeover is what is known of a resource that may need a Primary; guarded by Takeover.mu.
type pendingTakeover struct {
	key      string    // of the facts
	since    time.Time // when they were first seen
	attempt  context.CancelFunc
	retryAt  time.Time
	failures int
	reason   string
	refused  string // why the last attempt failed
}

// StartTakeover begins to watch.
func StartTakeover(cfg TakeoverConfig) *Takeover {
	t := &Takeover{cfg: cfg, wake: make(chan struct{}, 1), pending: map[string]*pendingTakeover{}}
	if t.cfg.Promote == nil {
		t.cfg.Promote = func(ctx context.Context, resource, why string) error {
			if r := t.cfg.Replica(resource); r != nil {
				return r.PromoteBecause(ctx, why)
			}
			return fmt.Errorf("%w: %s is not open", replication.ErrRefused, resource)
		}
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.loops.Go(t.watchLoop)
	return t
}

// Close ends every attempt, and waits for that.
func (t *Takeover) Close() {
	t.cancel()
	t.loops.Wait()
}

// Waiting says what a resource without a living Primary waits for; "" if nothing.
func (t *Takeover) Waiting(resource string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pending[resource]
	switch {
	case p == nil:
		return ""
	case p.refused != "" && p.attempt == nil:
		return p.reason + "; the last attempt failed: " + p.refused
	}
	return p.reason
}

// watchLoop owns the decisions. The record, a suspicion, the end of an attempt and the time at which something is due wake it;
// Close ends it.
func (t *Takeover) watchLoop() {
	for {
		changed := t.cfg.Quorum.Changed()
		timer := time.NewTimer(t.look())
		select {
		case <-changed:
		case <-t.wake:
		case <-timer.C:
		case <-t.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// look decides about every resource, and returns when to look again at the latest.
func (t *Takeover) look() time.Duration {
	state, live := t.cfg.Quorum.State(), t.cfg.Quorum.Liveness()
	t.mu.Lock()
	defer t.mu.Unlock()
	next := placeInterval
	for _, record := range state.Resources {
		if _, here := record.Replica(t.cfg.Node); !here {
			continue
		}
		if wait := t.decideLocked(state, live, record); wait > 0 {
			next = min(next, wait)
		}
	}
	maps.DeleteFunc(t.pending, func(name string, p *pendingTakeover) bool {
		return state.Resources[name] == nil && p.attempt == nil
	})
	t.placeLocked(state, live)
	return next
}

// decideLocked does for one resource what its facts ask for, and returns when that may change by itself; 0: it doesn't.
func (t *Takeover) decideLocked(state *quorum.State, live quorum.Liveness, record *quorum.Resource) time.Duration {
	p, now := t.pending[record.Name], time.Now()
	if key := factsKey(state, live, record); p == nil || p.key != key {
		if p == nil {
			p = &pendingTakeover{}
			t.pending[record.Name] = p
		}
		p.key, p.since, p.failures, p.retryAt, p.refused = key, now, 0, time.Time{}, ""
	}
	facts := quorum.TakeoverFacts{Node: t.cfg.Node, Incarnation: t.cfg.Incarnation, State: state, Resource: record.Name, Liveness: live,
		Since: now.Sub(p.since)}
	decision := quorum.DecideTakeover(&facts)
	replica := t.cfg.Replica(record.Name)
	if replica != nil && decision.Gone {
		replica.Exited(record.Primary, record.PrimaryIncarnation)
	}
	if replica != nil && record.Primary == t.cfg.Node && t.reportSilent(replica, live, record) {
		decision.Wait = silentPause
	}
	if decision.Promote {
		if facts.Unusable = whyNotPrimary(replica); facts.Unusable != "" {
			decision = quorum.DecideTakeover(&facts)
			decision.Wait = unusablePause // nothing tells when it becomes usable
		}
	}
	if decision.Reason != p.reason {
		p.reason = decision.Reason
		t.cfg.Logger.Info("takeover", "resource", record.Name, "generation", record.Generation, "promote", decision.Promote, "reason", decision.Reason)
	}
	switch {
	case !decision.Promote && p.attempt != nil && record.Primary != t.cfg.Node: // else it has succeeded, and ends by itself
		p.attempt()
	case decision.Promote && p.attempt == nil && now.Before(p.retryAt):
		return p.retryAt.Sub(now)
	case decision.Promote && p.attempt == nil:
		t.attemptLocked(record.Name, p)
	}
	return decision.Wait
}

// reportSilent tells the Primary here whom nobody hears, and whether there is anyone.
func (t *Takeover) reportSilent(replica *replication.Resource, live quorum.Liveness, record *quorum.Resource) (any bool) {
	for _, name := range record.InSync {
		if name != t.cfg.Node && live.Nodes[name].Suspected {
			replica.Silent(name)
			any = true
		}
	}
	return any
}

// factsKey changes with what an order of candidates depends on.
func factsKey(state *quorum.State, live quorum.Liveness, record *quorum.Resource) string {
	key := fmt.Sprintf("%d", record.Generation)
	for _, name := range record.InSync {
		held := live.Nodes[name]
		key += fmt.Sprintf(" %s %t %d %d", name, held.Suspected, held.Exited, state.Nodes[name].Incarnation)
	}
	return key
}

// whyNotPrimary says why a replica can't be the Primary's; "": it can.
func whyNotPrimary(r *replication.Resource) string {
	if r == nil {
		return "it is not open"
	}
	st := r.Status()
	if slices.Contains([]string{"Failed", "Diskless", "Inconsistent"}, st.DiskState) {
		return "it is " + st.DiskState
	}
	return ""
}

// promotionFacts is what mayBecomePrimary looks at besides the record.
type promotionFacts struct {
	node     string
	quorum   bool   // a majority is reached
	gone     bool   // the Primary of the record, if there is one, has ended or is missed by a majority
	unusable string // why the disk here can't be the Primary's
}

// mayBecomePrimary says whether a promotion of this node would be granted.
func mayBecomePrimary(r *quorum.Resource, f promotionFacts) bool {
	return f.quorum && f.unusable == "" && r.IsInSync(f.node) && (r.Primary == "" || r.Primary != f.node && f.gone)
}

// attemptLocked makes the replica Primary beside the loop.
func (t *Takeover) attemptLocked(resource string, p *pendingTakeover) {
	ctx, cancel := context.WithTimeout(t.ctx, attemptLimit)
	p.attempt = cancel
	why := p.reason
	t.loops.Go(func() {
		defer cancel()
		began := time.Now()
		err := t.cfg.Promote(ctx, resource, why)
		t.cfg.Logger.Info("attempt to take over", "resource", resource, "reason", why, "took", time.Since(began), "error", err)
		t.mu.Lock()
		p.attempt = nil
		p.retryAt = time.Now().Add(min(attemptPauseMax, attemptPause<<min(p.failures, 10))) // after a success, too: the record may be behind
		p.failures++
		if err != nil {
			p.refused = err.Error()
		}
		t.mu.Unlock()
		select {
		case t.wake <- struct{}{}:
		default:
		}
	})
}

// placeLocked hands Raft's leadership over if this node has it and is Primary.
func (t *Takeover) placeLocked(state *quorum.State, live quorum.Liveness) {
	status := t.cfg.Quorum.Status()
	if status.Leader != t.cfg.Node || t.placing || time.Since(t.placedAt) < placeInterval && !t.placedAt.IsZero() {
		return
	}
	var voters []string
	for _, v := range status.Voters {
		if v.Votes {
			voters = append(voters, v.Node)
		}
	}
	target := quorum.PlaceLeader(t.cfg.Node, state, live, voters)
	if target == "" {
		return
	}
	t.placing, t.placedAt = true, time.Now()
	t.loops.Go(func() {
		ctx, cancel := context.WithTimeout(t.ctx, placeLimit)
		defer cancel()
		err := t.cfg.Quorum.TransferLeadership(ctx, target)
		t.cfg.Logger.Info("leadership is handed over, away from a Primary", "to", target, "error", err)
		t.mu.Lock()
		t.placing = false
		t.mu.Unlock()
	})
}

// replicaOf is what this node has open of a resource.
func (n *Node) replicaOf(resource string) *replication.Resource {
	if h := n.held(resource); h != nil {
		return h.resource
	}
	return nil
}

// takeovers is nil on a witness, and before the record is known.
func (n *Node) takeovers() *Takeover {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.takeover
}

// takeOver is an automatic promotion.
func (n *Node) takeOver(ctx context.Context, resource, why string) error {
	replica := n.replicaOf(resource)
	if replica == nil {
		return control.Errorf(control.CodeRefused, "%s is not open on %s", resource, n.config.Name)
	}
	if err := replica.PromoteBecause(ctx, why); err != nil {
		return err
	}
	n.emit(replication.Event{Time: time.Now(), Resource: resource, Kind: "takeover", To: string(control.RolePrimary),
		Generation: replica.Status().Generation, Reason: why})
	return nil
}
