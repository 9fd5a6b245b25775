package sim

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"duet/internal/node"
	"duet/nbd"
	"duet/quorum"
	"duet/replication"
)

// The ports of a machine besides those of the quorum.
const (
	portPeer = "peer"
	portNBD  = "nbd"
)

// machine is what outlives a process: its disks, the store of the quorum, its counters.
type machine struct {
	name        string
	kind        quorum.Kind
	data, meta  *disk // nil on a witness
	storage     *quorum.Storage
	incarnation uint64
	clockZero   time.Duration
	clockRate   float64
	boots       atomic.Int64
	running     atomic.Pointer[process]
}

// clock runs at the machine's own rate, and has its own zero.
func (m *machine) clock(w *world) func() time.Duration {
	return func() time.Duration { return m.clockZero + time.Duration(float64(time.Since(w.began))*m.clockRate) }
}

// current is the newest process, nil before the first.
func (m *machine) current() *process { return m.running.Load() }

// process is a run of the daemon: what internal/node composes, on the simulated surroundings.
type process struct {
	world       *world
	machine     *machine
	incarnation uint64
	bootID      string
	log         *slog.Logger
	ctx         context.Context
	cancel      context.CancelFunc
	killed      chan struct{} // closed at the moment of death
	diedAt      time.Time     // valid once killed is closed
	once        sync.Once
	loops       sync.WaitGroup
	watching    sync.WaitGroup // ends before the replica is closed
	gone        chan struct{}  // closed when nothing of it is left

	quorum    *quorum.Node
	server    *nbd.Server
	listeners []*listener

	mu       sync.Mutex
	resource *replication.Resource
	revoked  chan struct{}
	failure  error // why there is no disk
}

func (p *process) dead() bool {
	select {
	case <-p.killed:
		return true
	default:
		return false
	}
}

// sleep waits, and reports whether the process lives on.
func (p *process) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return !p.dead()
	case <-p.killed:
		return false
	}
}

// launch starts the daemon of a machine. It returns when the process is up, or has died.
func (w *world) launch(m *machine) *process {
	m.incarnation++
	p := &process{world: w, machine: m, incarnation: m.incarnation, bootID: bootID(m), gone: make(chan struct{}), log: w.log.With("node", m.name, "incarnation", m.incarnation), killed: make(chan struct{}),
		revoked: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	m.running.Store(p)
	w.mu.Lock()
	w.launched = append(w.launched, p)
	w.mu.Unlock()
	w.processes.Go(p.run)
	return p
}

// run is the life of a process: it comes up as far as it gets, and goes when it is told to or killed.
func (p *process) run() {
	defer close(p.gone)
	defer p.cancel()
	if err := p.start(); err != nil {
		p.log.Info("start", "error", err)
	}
	<-p.ctx.Done()
	p.stop()
}

func (p *process) start() error {
	m, w := p.machine, p.world
	q, err := quorum.Start(p.ctx, quorum.Config{
		Node: m.name, Incarnation: p.incarnation, BootID: p.bootID, Advertise: m.name, Storage: p.storage(), Seeds: w.seeds(m.name),
		Accept: func(c quorum.Channel) net.Listener { return p.listen(string(c)) },
		Dial: func(ctx context.Context, address, _ string, c quorum.Channel) (net.Conn, error) {
			return w.network.dial(ctx, p, address, string(c))
		},
		Timing: simTiming, Logger: p.log,
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.quorum = q
	p.mu.Unlock()
	if err := p.enterCluster(); err != nil {
		return err
	}
	peers := p.listen(portPeer)
	if m.data == nil {
		return nil
	}
	if p.server, err = nbd.Start(exports{p}, nbd.Config{Logger: p.log}); err != nil {
		return err
	}
	clients := p.listen(portNBD)
	p.watching.Go(p.watch)
	p.takeOvers()
	p.loops.Go(func() { p.acceptPeers(peers) })
	p.loops.Go(func() {
		if err := p.server.Serve(clients); err != nil {
			p.log.Info("NBD server", "error", err)
		}
	})
	return nil
}

// enterCluster is as in internal/node, and goes on trying as long as the process lives.
func (p *process) enterCluster() error {
	for {
		err := p.tryToEnter()
		if err == nil || p.ctx.Err() != nil || errors.Is(err, quorum.ErrRefused) {
			return err
		}
		p.sleep(200 * time.Millisecond)
	}
}

func (p *process) tryToEnter() error {
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	if len(p.quorum.Status().Voters) == 0 {
		enter := p.quorum.Admit
		if p.machine.name == p.world.machines[0].name {
			enter = func(ctx context.Context) error { return p.quorum.Bootstrap(ctx, clusterID) }
		}
		if err := enter(ctx); err != nil {
			return err
		}
	}
	if _, err := p.quorum.Register(ctx, p.machine.name); err != nil {
		return err
	}
	return p.quorum.Barrier(ctx)
}

func (p *process) listen(port string) *listener {
	l := p.world.network.listen(p.machine.name, port)
	p.mu.Lock()
	p.listeners = append(p.listeners, l)
	p.mu.Unlock()
	if p.dead() {
		l.closeNow()
	}
	return l
}

// watch keeps the resource in step with the record.
func (p *process) watch() {
	for {
		changed := p.quorum.Changed()
		if record := p.quorum.State().Resources[resourceName]; record != nil {
			if r := p.replica(); r != nil {
				r.Learn(node.Configuration(record))
			} else if _, mine := record.Replica(p.machine.name); mine {
				p.open(record)
			}
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return
		}
	}
}

// takeOvers begins automatic promotion; it ends before the replica is closed.
func (p *process) takeOvers() {
	t := node.StartTakeover(node.TakeoverConfig{Node: p.machine.name, Incarnation: p.incarnation, Quorum: p.quorum, Logger: p.log,
		Replica: func(string) *replication.Resource { return p.replica() },
		Promote: func(ctx context.Context, _, why string) error {
			p.world.look() // at the record that says what is lost: the promotion may replace it before anybody else looks
			err := p.replica().PromoteBecause(ctx, why)
			if err == nil {
				p.world.count(func(n *Counts) { n.Takeovers++ })
			}
			return err
		}})
	p.watching.Go(func() {
		<-p.ctx.Done()
		t.Close()
	})
}

func (p *process) replica() *replication.Resource {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.resource
}

func (p *process) open(record *quorum.Resource) {
	r, err := replication.Open(replication.Config{
		ClusterID: clusterID, Node: p.machine.name, Incarnation: p.incarnation, BootID: p.bootID,
		Arbiter: node.NewArbiter(p.quorum), Timing: peerTiming, Logger: p.log, Workers: 4,
		Leases: replication.LeaseConfig{Length: simLease, Clock: p.machine.clock(p.world)},
		Dial: func(ctx context.Context, name string) (net.Conn, error) {
			return p.world.network.dial(ctx, p, name, portPeer)
		},
		Revoke: func(string) { p.revoke() },
		Emit: func(e replication.Event) {
			p.log.Debug("event", "kind", e.Kind, "peer", e.Peer, "from", e.From, "to", e.To, "reason", e.Reason)
		},
	}, node.Configuration(record))
	if err != nil {
		p.log.Error("open", "error", err)
		return
	}
	if err := r.Attach(openDisk{p.machine.data, p}, openDisk{p.machine.meta, p}); err != nil {
		p.log.Info("attach", "error", err)
		p.mu.Lock()
		p.failure = err
		p.mu.Unlock()
	}
	r.Start()
	p.mu.Lock()
	p.resource = r
	p.mu.Unlock()
	r.Learn(node.Configuration(p.quorum.State().Resources[resourceName]))
}

func (p *process) acceptPeers(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.loops.Go(func() { p.greet(c) })
	}
}

func (p *process) greet(c net.Conn) {
	hello, err := replication.ReadHello(p.ctx, c)
	if err != nil {
		p.log.Debug("peer", "error", errors.Join(err, c.Close()))
		return
	}
	if r := p.replica(); r != nil {
		r.Accept(c, hello)
		return
	}
	replication.Refuse(c, "not open yet")
}

func (p *process) revoke() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.revoked)
	p.revoked = make(chan struct{})
}

func (p *process) revocation() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.revoked
}

// stop ends the process: in good order if it lives; if it was killed, what it still does reaches nothing.
func (p *process) stop() {
	limit := 8 * time.Second
	if p.dead() {
		limit = time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	p.watching.Wait()
	if r := p.replica(); r != nil {
		if err := r.Close(ctx); err != nil {
			p.log.Info("close", "error", err)
		}
		p.revoke()
	}
	if p.server != nil {
		if err := p.server.Close(ctx); err != nil {
			p.log.Debug("NBD clients were cut off", "error", err)
		}
	}
	p.mu.Lock()
	listeners := p.listeners
	p.mu.Unlock()
	for _, l := range listeners {
		l.closeNow()
	}
	if p.quorum != nil {
		if err := p.quorum.Close(); err != nil {
			p.log.Info("close quorum", "error", err)
		}
	}
	p.loops.Wait()
}

// kill ends the process between two instructions.
func (p *process) kill() {
	p.once.Do(func() {
		p.diedAt = time.Now()
		close(p.killed)
		p.cancel()
	})
}

// exports is the device as clients of this process see it.
type exports struct{ process *process }

// Names implements nbd.Exports.
func (x exports) Names() []string { return []string{resourceName} }

// Open implements nbd.Exports.
func (x exports) Open(string) (*nbd.Export, error) {
	revoked := x.process.revocation() // before the role is looked at
	r := x.process.replica()
	if r == nil || !r.Serving() {
		return nil, &nbd.Refused{Kind: nbd.RefusedPolicy, Message: "not Primary"}
	}
	x.process.world.served(x.process, r.Volume().Generation())
	device := &guardedDevice{Device: r.Volume(), process: x.process, volume: r.Volume(), revoked: revoked}
	return &nbd.Export{Name: resourceName, Device: device, Revoked: revoked}, nil
}
