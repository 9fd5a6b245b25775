package quorum

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// network is a simulated network of pipes between nodes named after their addresses. It runs inside a synctest bubble.
type network struct {
	mu        sync.Mutex
	listeners map[string]*pipeListener // by address and channel
	cuts      map[string]bool          // by pair
	conns     map[net.Conn]string      // open ends, and their pair
	inmem     map[string]*raft.InmemTransport
}

func newNetwork() *network {
	return &network{listeners: map[string]*pipeListener{}, cuts: map[string]bool{}, conns: map[net.Conn]string{},
		inmem: map[string]*raft.InmemTransport{}}
}

func pair(a, b string) string { return min(a, b) + "|" + max(a, b) }

// listen returns the listener of an address and channel; a restarted node gets a new one.
func (w *network) listen(address string, channel Channel) net.Listener {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := &pipeListener{address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
	w.listeners[address+"/"+string(channel)] = l
	return l
}

// dial connects from a node to an address. Across a cut it waits in vain, as on a real network.
func (w *network) dial(ctx context.Context, from, to string, channel Channel) (net.Conn, error) {
	w.mu.Lock()
	l, cut := w.listeners[to+"/"+string(channel)], w.cuts[pair(from, to)]
	w.mu.Unlock()
	if cut {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if l == nil {
		return nil, fmt.Errorf("nobody listens at %s", to)
	}
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		w.mu.Lock()
		w.conns[here], w.conns[there] = pair(from, to), pair(from, to)
		w.mu.Unlock()
		return here, nil
	case <-l.closed:
		return nil, fmt.Errorf("nobody listens at %s", to)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// cut separates two nodes, both ways: what is open between them breaks, and nothing new gets through.
func (w *network) cut(a, b string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts[pair(a, b)] = true
	for conn, p := range w.conns {
		if p == pair(a, b) {
			closeConn(conn)
			delete(w.conns, conn)
		}
	}
	if w.inmem[a] != nil && w.inmem[b] != nil {
		w.inmem[a].Disconnect(raft.ServerAddress(b))
		w.inmem[b].Disconnect(raft.ServerAddress(a))
	}
}

func (w *network) heal(a, b string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.cuts, pair(a, b))
	if w.inmem[a] != nil && w.inmem[b] != nil {
		w.inmem[a].Connect(raft.ServerAddress(b), w.inmem[b])
		w.inmem[b].Connect(raft.ServerAddress(a), w.inmem[a])
	}
}

func closeConn(conn net.Conn) {
	if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		panic(err)
	}
}

// transport makes a node's raft.InmemTransport and connects it to those of the others.
func (w *network) transport(address string) raft.Transport {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, t := raft.NewInmemTransportWithTimeout(raft.ServerAddress(address), 200*time.Millisecond)
	for other, o := range w.inmem {
		if other != address {
			t.Connect(raft.ServerAddress(other), o)
			o.Connect(raft.ServerAddress(address), t)
		}
	}
	w.inmem[address] = t
	return t
}

type pipeListener struct {
	address string
	conns   chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return streamAddr(l.address) }

// bench runs nodes in one bubble.
type bench struct {
	t     *testing.T
	net   *network
	inmem bool // Raft over raft.InmemTransport; otherwise over our own streams
	nodes map[string]*Node
	disks map[string]*Storage
	incs  map[string]uint64
	tune  func(*Config)

	tokens int
}

func newBench(t *testing.T, inmem bool) *bench {
	return &bench{t: t, net: newNetwork(), inmem: inmem, nodes: map[string]*Node{}, disks: map[string]*Storage{}, incs: map[string]uint64{}}
}

func memoryStorage() *Storage {
	log := raft.NewInmemStore()
	return &Storage{Log: log, Stable: log, Snapshots: raft.NewInmemSnapshotStore()}
}

// start starts a node, on the disk it had if it ran before.
func (b *bench) start(name string) *Node {
	b.t.Helper()
	if b.disks[name] == nil {
		b.disks[name] = memoryStorage()
	}
	b.incs[name]++
	cfg := Config{
		Node: name, Incarnation: b.incs[name], BootID: "boot-" + name, Advertise: name, Storage: b.disks[name],
		Accept: func(c Channel) net.Listener { return b.net.listen(name, c) },
		Dial: func(ctx context.Context, address, _ string, c Channel) (net.Conn, error) {
			return b.net.dial(ctx, name, address, c)
		},
		Logger: testLogger(name),
	}
	if name != "a" {
		cfg.Seeds = []Seed{{Address: "a"}}
	}
	if b.inmem {
		cfg.Transport = b.net.transport(name)
	}
	if b.tune != nil {
		b.tune(&cfg)
	}
	n, err := Start(b.t.Context(), cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.nodes[name] = n
	return n
}

// testLogger is silent unless the test is run with DUET_TEST_LOG=1.
func testLogger(name string) *slog.Logger {
	if os.Getenv("DUET_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", name)
}

func (b *bench) stop(name string) {
	b.t.Helper()
	if err := b.nodes[name].Close(); err != nil {
		b.t.Errorf("close %s: %v", name, err)
	}
	delete(b.nodes, name)
}

func (b *bench) stopAll() {
	for name := range b.nodes {
		b.stop(name)
	}
}

// form makes a cluster of the data nodes a and b and the witness w, all registered.
func (b *bench) form() {
	b.t.Helper()
	first := b.start("a")
	b.do("bootstrap", func(ctx context.Context) error { return first.Bootstrap(ctx, "test") })
	b.register("a")
	for _, name := range []string{"b", "w"} {
		b.join(name)
	}
}

func (b *bench) join(name string) {
	b.t.Helper()
	kind := Data
	if name == "w" {
		kind = Witness
	}
	b.tokens++
	token := fmt.Sprintf("token-%d", b.tokens)
	b.propose("a", AddToken{ID: token, Expires: now + 60, Now: now})
	b.propose("a", JoinNode{Token: token, Now: now, Node: name, Address: name, Kind: kind})
	n := b.start(name)
	b.do("admit "+name, n.Admit)
	b.register(name)
}

// do runs a step that has to succeed.
func (b *bench) do(what string, step func(context.Context) error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	if err := step(ctx); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

func (b *bench) register(name string) {
	b.t.Helper()
	b.do("register "+name, func(ctx context.Context) error {
		_, err := b.nodes[name].Register(ctx, name+":10809")
		return err
	})
}

func (b *bench) propose(from string, c Command) Result {
	b.t.Helper()
	var result Result
	b.do(from+" proposes "+c.kind(), func(ctx context.Context) (err error) {
		result, err = b.nodes[from].Propose(ctx, c)
		return err
	})
	return result
}

func (b *bench) barrier(name string) {
	b.t.Helper()
	b.do("barrier on "+name, b.nodes[name].Barrier)
}

// leader waits until exactly one of the named nodes leads and the others know it, and returns its name.
func (b *bench) leader(among ...string) string {
	b.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if name := b.agreed(among); name != "" {
			return name
		}
		time.Sleep(5 * time.Millisecond) // virtual: the bubble's clock moves when all is idle
	}
	b.t.Fatalf("no leader among %v", among)
	return ""
}

func (b *bench) agreed(among []string) string {
	leader := ""
	for _, name := range among {
		s := b.nodes[name].Status()
		if s.Leader == "" || leader != "" && s.Leader != leader {
			return ""
		}
		leader = s.Leader
	}
	for _, name := range among {
		if name == leader && b.nodes[name].leads() {
			return leader
		}
	}
	return ""
}

// makeLeader hands leadership to a node.
func (b *bench) makeLeader(name string) {
	b.t.Helper()
	b.do("transfer to "+name, func(ctx context.Context) error { return b.nodes["a"].TransferLeadership(ctx, name) })
	if got := b.leader("a", "b", "w"); got != name {
		b.t.Fatalf("leader is %s, want %s", got, name)
	}
}

// isolate cuts a node off from all others, or brings it back.
func (b *bench) isolate(name string) {
	for other := range b.nodes {
		if other != name {
			b.net.cut(name, other)
		}
	}
}

func (b *bench) rejoin(name string) {
	for other := range b.nodes {
		if other != name {
			b.net.heal(name, other)
		}
	}
}

// pairResource is a create command for resource r on a and b.
func pairResource() CreateResource {
	c := create("a", "b")
	c.Replicas = c.Replicas[:2]
	return c
}
