package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"duet/quorum"
	"duet/replication"
)

const (
	clusterID    = "simulated"
	resourceName = "r0"
	// deviceBytes is sixteen extents of the activity log.
	deviceBytes = 64 << 20
	// logExtents is so few that extents have to leave the log all the time.
	logExtents = 8
	// simLease is how long a read lease lasts, clockDrift by how much a clock is fast or slow at most.
	simLease   = 500 * time.Millisecond
	clockDrift = 0.01
)

// simTiming and peerTiming are slower than the real ones where that only saves work.
var (
	simTiming = quorum.Timing{Heartbeat: 400 * time.Millisecond, Commit: 50 * time.Millisecond, Transport: 500 * time.Millisecond,
		Store: 2 * time.Second, Dial: 250 * time.Millisecond, Propose: 5 * time.Second, Beat: 100 * time.Millisecond, Suspect: 400 * time.Millisecond}
	peerTiming = replication.Timing{PingInterval: 250 * time.Millisecond, PeerTimeout: 1500 * time.Millisecond, AckTimeout: 3 * time.Second,
		ConnectGrace: 3 * time.Second, RetryMin: 50 * time.Millisecond, RetryMax: time.Second, IdleBarrier: 500 * time.Millisecond,
		BusyBarrier: 2 * time.Second, DiskTimeout: 1200 * time.Millisecond,
		LeaseInterval: 100 * time.Millisecond, Suspect: 400 * time.Millisecond}
)

// Plan says what one history is made of.
type Plan struct {
	Seed     uint64
	Replicas int           // 2 or 3
	Length   time.Duration // of the time with faults, about
	Clients  int
	// Automatic: the nodes promote themselves, and an operator hardly ever has to.
	Automatic bool
	Switching bool         // an operator moves the Primary's role about
	Skip      map[int]bool // troubles that are left out, by number
	Log       io.Writer    // of the nodes; nil for none
}

// newPlan derives everything else from the seed.
func newPlan(seed uint64) Plan {
	random := rand.New(rand.NewPCG(seed, 1))
	return Plan{Seed: seed, Replicas: 2 + random.IntN(5)/3, Length: time.Duration(5+random.IntN(15)) * time.Second, Clients: 1 + random.IntN(3), Automatic: seed%2 == 0, Switching: seed%3 == 0}
}

// Counts is what happened in a history.
type Counts struct {
	Writes, Reads, Flushes                  int
	Kills, PowerLosses, Blackouts, Cuts     int
	Resets, DiskFaults, Promotions, Demands int
	FullDisks, Looks, Marked, Growths       int
	Attached                                int // disks, while their process ran
	Takeovers                               int // promotions that nobody asked for
	Switches                                int
	Undecided                               int
	Virtual                                 time.Duration
}

// world is one history under way.
type world struct {
	plan      Plan
	log       *slog.Logger
	network   *network
	machines  []*machine // the first founds the cluster; the last is the witness
	processes sync.WaitGroup
	history   history
	counts    Counts
	began     time.Time

	mu       sync.Mutex
	lossTime map[string]int64 // when a machine lost its power last, in the order of events
	noted    int64            // the newest of these that was a loss
	newest   *quorum.Resource // that any live process has seen

	authority authority

	starting chan struct{} // holds one while somebody launches
	operator *rand.Rand
	switcher *rand.Rand
	faulty   string // the one machine whose disks may fail
	problems []error
	launched []*process  // ever
	stopped  atomic.Bool // no more faults and no new load
}

func newWorld(plan Plan) *world {
	w := &world{plan: plan, authority: authority{acted: map[uint64]*process{}}, lossTime: map[string]int64{}, began: time.Now(),
		starting: make(chan struct{}, 1), operator: rand.New(rand.NewPCG(plan.Seed, 4)), switcher: rand.New(rand.NewPCG(plan.Seed, 6))}
	w.log = slog.New(slog.DiscardHandler)
	if plan.Log != nil {
		w.log = slog.New(slog.NewTextHandler(plan.Log, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
				return slog.String("t", a.Value.Time().Sub(w.began).String())
			}
			return a
		}}))
	}
	w.network = newNetwork(rand.New(rand.NewPCG(plan.Seed, 3)))
	for i, name := range []string{"a", "b", "c"}[:plan.Replicas] {
		stream := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(plan.Seed, 10+2*uint64(i)+n)) }
		w.machines = append(w.machines, &machine{name: name, kind: quorum.Data, storage: newStorage(),
			data: newDisk(largestBytes, stream(0)), meta: newDisk(20*replication.MetadataBytes(largestBytes, logExtents), stream(1))})
	}
	w.machines = append(w.machines, &machine{name: "w", kind: quorum.Witness, storage: newStorage()})
	clocks := rand.New(rand.NewPCG(plan.Seed, 5))
	for _, m := range w.machines {
		m.clockZero, m.clockRate = time.Duration(clocks.Int64N(int64(time.Hour))), 1+clockDrift*(2*clocks.Float64()-1)
	}
	return w
}

// seeds are the machines that a node asks first.
func (w *world) seeds(self string) []quorum.Seed {
	var seeds []quorum.Seed
	for _, m := range w.machines {
		if m.name != self {
			seeds = append(seeds, quorum.Seed{Node: m.name, Address: m.name})
		}
	}
	return seeds
}

func (w *world) count(f func(*Counts)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.counts)
}

// problem notes what must not happen.
func (w *world) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) < 20 {
		w.problems = append(w.problems, fmt.Errorf(format, args...))
	}
}

// wait waits until done, at most for limit, and reports whether it came to that.
func (w *world) wait(limit time.Duration, done func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if done() {
			return true
		}
		pause(nil, 5*time.Millisecond)
	}
	return done()
}

// data are the machines with replicas.
func (w *world) data() []*machine { return w.machines[:len(w.machines)-1] }

// found makes the cluster and the resource.
func (w *world) found() error {
	first := w.launch(w.machines[0])
	ready := func(p *process) func() bool {
		return func() bool {
			s := p.quorumState()
			return s != nil && s.Nodes[p.machine.name].Incarnation == p.machine.incarnation
		}
	}
	if !w.wait(time.Minute, ready(first)) {
		return errors.New("the first node did not come up")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i, m := range w.machines[1:] {
		token, now := fmt.Sprintf("token-%d", i), time.Now().Unix()
		for _, c := range []quorum.Command{quorum.AddToken{ID: token, Expires: now + 600, Now: now},
			quorum.JoinNode{Token: token, Now: now, Node: m.name, Address: m.name, Kind: m.kind}} {
			if _, err := first.quorum.Propose(ctx, c); err != nil {
				return fmt.Errorf("join %s: %w", m.name, err)
			}
		}
		if !w.wait(time.Minute, ready(w.launch(m))) {
			return fmt.Errorf("%s did not come up", m.name)
		}
	}
	return w.create(ctx, first)
}

func (w *world) create(ctx context.Context, first *process) error {
	create := quorum.CreateResource{Name: resourceName, ID: quorum.ResourceID{1}, SizeBytes: deviceBytes, JustCreated: true, Promotion: quorum.PromotionManual}
	if w.plan.Automatic {
		create.Promotion = quorum.PromotionAuto
	}
	for slot, m := range w.data() {
		err := replication.Format(openDisk{m.meta, m.current()}, replication.FormatConfig{ClusterID: clusterID, Resource: resourceName, Node: m.name,
			ResourceID: [16]byte(create.ID), Slot: slot, SizeBytes: deviceBytes, ALExtents: logExtents, JustCreated: true})
		if err != nil {
			return fmt.Errorf("format on %s: %w", m.name, err)
		}
		create.Replicas = append(create.Replicas, quorum.NewReplica{Node: m.name, Slot: slot, Path: "/disk", Metadata: "/metadata"})
		create.InSync = append(create.InSync, m.name)
	}
	if _, err := first.quorum.Propose(ctx, create); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	return nil
}

// quorumState is what the process has learned, nil before it is up.
func (p *process) quorumState() *quorum.State {
	q := p.quorumNode()
	if q == nil {
		return nil
	}
	return q.State()
}

// quorumNode is nil until it runs.
func (p *process) quorumNode() *quorum.Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.quorum
}

// look brings the newest record that anybody alive has seen up to date, and finds out whether it says that what was
// not stable may be gone.
func (w *world) look() *quorum.Resource {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.machines {
		if m.current() == nil || m.current().dead() {
			continue
		}
		if s := m.current().quorumState(); s != nil && s.Resources[resourceName] != nil {
			if r := s.Resources[resourceName]; w.newest == nil || r.Generation > w.newest.Generation {
				w.newest = r
			}
		}
	}
	w.noteLossLocked()
	return w.newest
}

// noteLossLocked: when every member of the in-sync set has lost power since it became one, nobody has a page cache with
// what was acknowledged and not flushed. The record may be learned long after the loss.
func (w *world) noteLossLocked() {
	r := w.newest
	if r == nil || len(r.InSync) == 0 || r.Clean {
		return
	}
	last := int64(0)
	for _, name := range r.InSync {
		replica, _ := r.Replica(name)
		if replica.AdmittedBoot == bootID(w.machine(name)) {
			return
		}
		last = max(last, w.lossTime[name])
	}
	if last <= w.noted {
		return
	}
	w.noted = last
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	w.history.losses = append(w.history.losses, loss{at: last})
	w.log.Info("LOSS: what was not stable may be gone", "set", r.InSync, "at", last)
}

// run is a whole history: a cluster, a load with faults, peace, and a comparison.
func (w *world) run() {
	if err := w.found(); err != nil {
		w.problem("%w", err)
		w.stopAll()
		return
	}
	var load, operator sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	operator.Go(func() { w.operate(ctx) })
	if w.plan.Switching {
		operator.Go(func() { w.switchRoles(ctx) })
	}
	for i := range w.plan.Clients {
		load.Go(func() { w.newClient(i).run() })
	}
	load.Go(w.lookNowAndThen)
	load.Go(w.growNowAndThen)
	w.disturb()
	w.stopped.Store(true)
	w.pacify()
	load.Wait()
	if w.converge() {
		w.newClient(99).readAll()
		w.compare(cancel)
	}
	cancel()
	operator.Wait()
	w.stopAll()
	w.counts.Virtual = time.Since(w.began)
}

// pacify ends all faults and brings back who is gone.
func (w *world) pacify() {
	w.network.healAll()
	for _, m := range w.machines {
		if m.data != nil {
			m.data.heal()
			m.meta.heal()
		}
	}
	for _, m := range w.machines {
		w.revive(m)
	}
}

// restartFailed restarts whoever gave its disk up, as an operator would who has looked at the disk.
func (w *world) restartFailed() {
	for _, m := range w.data() {
		if replica := m.current().replica(); replica != nil && !m.current().dead() && slices.Contains([]string{"Failed", "Diskless"}, replica.Status().DiskState) {
			w.log.Info("restart", "node", m.name)
			m.current().kill()
			w.network.loseProcess(m.name)
		}
		w.revive(m)
	}
}

// converge waits until all replicas are in sync again.
func (w *world) converge() bool {
	since, decidable := time.Now(), time.Now()
	undecided := false
	done := w.wait(3*time.Minute, func() bool {
		w.restartFailed()
		if !w.needsForce() {
			decidable = time.Now()
		}
		if undecided = time.Since(decidable) > 20*time.Second; undecided {
			return true
		}
		if !w.settled() {
			since = time.Now()
		}
		return time.Since(since) > 2*peerTiming.PeerTimeout // nobody may still have to notice something
	})
	if undecided {
		w.counts.Undecided++
		return false
	}
	if !done {
		w.problem("the replicas did not get in sync again: %s", w.describe())
	}
	return done
}

// needsForce says whether nobody may be promoted before an operator has decided what is to be lost: of the replicas that
// have every acknowledged write, each has lost its page cache or its disk, and at least one its disk but not its cache.
func (w *world) needsForce() bool {
	r, kept := w.look(), false
	if r == nil {
		return false
	}
	for _, name := range r.InSync {
		member, _ := r.Replica(name)
		replica := w.machine(name).current().replica()
		if replica == nil || replica.Serving() {
			return false
		}
		restarted := member.AdmittedBoot != bootID(w.machine(name))
		unusable := slices.Contains([]string{"Failed", "Diskless", "Inconsistent"}, replica.Status().DiskState)
		if !restarted && !unusable {
			return false
		}
		kept = kept || unusable && !restarted
	}
	return kept
}

// settled says whether the record has all replicas in sync and a Primary that serves.
func (w *world) settled() bool {
	r := w.look()
	if r == nil || r.Primary == "" || len(r.InSync) != w.plan.Replicas {
		return false
	}
	replica := w.machine(r.Primary).current().replica()
	return replica != nil && replica.Serving()
}

// describe is the state for a report.
func (w *world) describe() string {
	text := ""
	if r := w.look(); r != nil {
		text = fmt.Sprintf("generation %d, Primary %q, in sync %v", r.Generation, r.Primary, r.InSync)
	}
	for _, m := range w.data() {
		p := m.current()
		if replica := p.replica(); replica != nil && !p.dead() {
			st := replica.Status()
			text += fmt.Sprintf("; %s: %s %s serving=%v reason=%q failure=%v", m.name, st.Role, st.DiskState, st.Serving, st.Reason, p.failure)
			for _, peer := range st.Peers {
				text += fmt.Sprintf(" [%s %s %s out of sync %d %q]", peer.Node, peer.ConnectionState, peer.ReplicationState, peer.OutOfSyncBytes, peer.Reason)
			}
		}
	}
	return text
}

// compare gives the Primary role up in good order and compares the disks.
func (w *world) compare(stopOperator func()) {
	stopOperator()
	demoted := w.wait(time.Minute, func() bool {
		for _, m := range w.data() {
			replica := m.current().replica()
			if replica == nil || !replica.Serving() {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			err := replica.Demote(ctx)
			cancel()
			if err != nil {
				w.log.Info("demote", "error", err)
			}
		}
		r := w.look()
		return r != nil && r.Primary == "" && r.Clean
	})
	if !demoted {
		w.problem("the Primary could not be demoted: %s", w.describe())
		return
	}
	w.checkNothingHeld()
	r := w.look()
	for i, name := range r.InSync[1:] {
		a, b := w.machine(r.InSync[i]), w.machine(name)
		if page, differ := a.data.differs(b.data, int64(r.SizeBytes)); differ {
			w.problem("%s and %s are both in sync and differ in block %d", a.name, b.name, page)
		}
	}
	if len(r.InSync) != w.plan.Replicas {
		w.problem("only %v are in sync after the end", r.InSync)
	}
}

func (w *world) machine(name string) *machine {
	for _, m := range w.machines {
		if m.name == name {
			return m
		}
	}
	return nil
}

// stopAll ends every process, and waits for all.
func (w *world) stopAll() {
	for _, m := range w.machines {
		if m.current() != nil {
			m.current().cancel()
		}
	}
	w.processes.Wait()
}
