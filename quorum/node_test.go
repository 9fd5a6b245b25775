package quorum

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// ports stands in for the multiplexer: a node has one address, and each channel of it a TCP listener of its own.
type ports struct {
	mu sync.Mutex
	at map[string]string // by address and channel
}

func (p *ports) listen(t *testing.T, address string, channel Channel) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[address+"/"+string(channel)] = l.Addr().String()
	return l
}

func (p *ports) dial(ctx context.Context, address, _ string, channel Channel) (net.Conn, error) {
	p.mu.Lock()
	to := p.at[address+"/"+string(channel)]
	p.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, "tcp", to)
}

func (p *ports) start(t *testing.T, dir, name string, incarnation uint64) *Node {
	t.Helper()
	cfg := Config{
		Node: name, Incarnation: incarnation, BootID: "boot", Dir: filepath.Join(dir, name), Advertise: name,
		Accept: func(c Channel) net.Listener { return p.listen(t, name, c) },
		Dial:   p.dial,
		Seeds:  []Seed{{Node: "a", Address: "a"}},
		// Generous: this runs beside other tests on few cores.
		Timing: Timing{Heartbeat: 500 * time.Millisecond, Store: 20 * time.Second, SnapshotThreshold: 8, TrailingLogs: 4},
		Logger: testLogger(name),
	}
	n, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close %s: %v", name, err)
		}
	})
	return n
}

// Three nodes on TCP and files: elect, propose from a follower, kill the leader, go on, and restart everything from a
// snapshot.
func TestClusterOnDisk(t *testing.T) {
	dir, p := t.TempDir(), &ports{at: map[string]string{}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ok := func(_ Result, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	nodes := map[string]*Node{"a": p.start(t, dir, "a", 1)}
	ok(Result{}, nodes["a"].Bootstrap(ctx, "test"))
	ok(nodes["a"].Register(ctx, ""))
	for _, name := range []string{"b", "w"} {
		ok(nodes["a"].Propose(ctx, AddToken{ID: name, Expires: now + 1, Now: now}))
		ok(nodes["a"].Propose(ctx, JoinNode{Token: name, Now: now, Node: name, Address: name, Kind: Data}))
		nodes[name] = p.start(t, dir, name, 1)
		ok(Result{}, nodes[name].Admit(ctx))
		ok(nodes[name].Register(ctx, ""))
	}
	ok(nodes["b"].Propose(ctx, pairResource()))
	ok(nodes["w"].Propose(ctx, promote(1, "a", 1)))
	generation := uint64(2)
	for range 20 {
		ok(nodes["b"].Propose(ctx, remove(generation, "b")))
		generation++
	}
	for name, n := range nodes {
		ok(Result{}, n.Barrier(ctx))
		if err := n.raft.Load().Snapshot().Error(); err != nil {
			t.Errorf("snapshot on %s: %v", name, err)
		}
	}
	ok(Result{}, nodes["b"].TransferLeadership(ctx, "a"))
	ok(Result{}, nodes["a"].Close())
	ok(nodes["w"].Propose(ctx, remove(generation, "b")))
	generation++
	ok(Result{}, nodes["b"].Close())
	ok(Result{}, nodes["w"].Close())

	for _, name := range []string{"b", "w"} { // a has missed the last one
		s, err := ReadOffline(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if r := s.Resources["r"]; s.ClusterID != "test" || r == nil || r.Generation != generation || len(r.Replicas) != 2 {
			t.Errorf("the record on the disk of %s is %+v", name, r)
		}
	}
	for _, name := range []string{"a", "b", "w"} {
		nodes[name] = p.start(t, dir, name, 2)
	}
	for _, name := range []string{"a", "b", "w"} {
		ok(nodes[name].Register(ctx, ""))
	}
	for name, n := range nodes {
		ok(Result{}, n.Barrier(ctx))
		s := n.State()
		if r := s.Resources["r"]; r.Generation != generation || r.Primary != "a" || s.Nodes["w"].Incarnation != 2 {
			t.Errorf("%s restarted with %+v", name, r)
		}
	}
}

func TestSecondProcessInTheSameDirectory(t *testing.T) {
	dir, p := t.TempDir(), &ports{at: map[string]string{}}
	p.start(t, dir, "a", 1)
	if _, err := openStorage(osFiles{}, filepath.Join(dir, "a"), raftLogger(Config{}.withDefaults().Logger)); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
}

func TestDamagedSnapshotStopsTheStart(t *testing.T) {
	dir, p := t.TempDir(), &ports{at: map[string]string{}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n := p.start(t, dir, "a", 1)
	if err := n.Bootstrap(ctx, "test"); err != nil {
		t.Fatal(err)
	}
	if err := n.raft.Load().Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "a", "snapshots", "*", "state.bin"))
	if err != nil || len(files) != 1 {
		t.Fatalf("snapshots %v, %v", files, err)
	}
	if s, err := ReadOffline(filepath.Join(dir, "a")); err != nil || s.ClusterID != "test" {
		t.Errorf("read offline: %+v, %v", s, err)
	}
	if err := os.Truncate(files[0], 10); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadOffline(filepath.Join(dir, "a")); !errors.Is(err, ErrDamaged) {
		t.Errorf("read offline: %v", err)
	}
	cfg := n.cfg
	cfg.Incarnation = 2
	if again, err := Start(ctx, cfg); err == nil {
		t.Errorf("started from a damaged snapshot; close: %v", again.Close())
	}
}

func TestConfigIsValidated(t *testing.T) {
	good := Config{
		Node: "a", Incarnation: 1, BootID: "boot", Dir: "dir", Advertise: "a:1",
		Accept: func(Channel) net.Listener { return nil },
		Dial:   func(context.Context, string, string, Channel) (net.Conn, error) { return nil, errors.New("no") },
	}
	if err := good.Validate(); err != nil {
		t.Errorf("a good config: %v", err)
	}
	tests := []struct {
		name   string
		change func(*Config)
		why    string
	}{
		{"no name", func(c *Config) { c.Node = "" }, "name"},
		{"no incarnation", func(c *Config) { c.Incarnation = 0 }, "incarnation"},
		{"no boot id", func(c *Config) { c.BootID = "" }, "boot id"},
		{"no address", func(c *Config) { c.Advertise = "" }, "advertise"},
		{"no listener", func(c *Config) { c.Accept = nil }, "Accept"},
		{"no dialer", func(c *Config) { c.Dial = nil }, "Dial"},
		{"no place for the log", func(c *Config) { c.Dir = "" }, "Dir"},
		{"half a storage", func(c *Config) { c.Storage = &Storage{} }, ""},
		{"negative time", func(c *Config) { c.Timing.Store = -1 }, "store"},
		{"election shorter than heartbeat", func(c *Config) { c.Timing.Election = time.Millisecond }, "election"},
		{"lease longer than heartbeat", func(c *Config) { c.Timing.Lease = time.Second }, "lease"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.change(&c)
			if _, err := Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("got %v, want %q", err, tt.why)
			}
		})
	}
}
