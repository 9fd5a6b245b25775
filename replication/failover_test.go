package replication

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"duet/bitmap"
)

// cutOff is the arbiter of a node that the others may not reach.
type cutOff struct {
	Arbiter
	off *atomic.Bool
}

func (a cutOff) Propose(ctx context.Context, p Proposal) (Configuration, error) {
	if a.off.Load() {
		return Configuration{}, errors.New("no majority answers")
	}
	return a.Arbiter.Propose(ctx, p)
}

// isolated is how to cut a node off from quorum and peers, and how to end that. It has to be asked for before the node starts.
func (c *testCluster) isolated(name string) (isolate, rejoin func()) {
	off := &atomic.Bool{}
	c.tweak = func(r *Resource) {
		if r.cfg.Node == name {
			r.cfg.Arbiter = cutOff{r.cfg.Arbiter, off}
		}
	}
	c.arbiter.mu.Lock()
	c.arbiter.learn = func(conf Configuration) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, n := range c.nodes {
			if n.resource != nil && (n.name != name || !off.Load()) {
				n.resource.Learn(conf)
			}
		}
	}
	c.arbiter.mu.Unlock()
	isolate = func() {
		off.Store(true)
		c.wiring.show(func(f lineFrame) bool { return f.from == name || f.to == name })
		c.wiring.cut(name, "")
	}
	return isolate, func() {
		c.wiring.show(nil)
		off.Store(false)
		if r := c.nodes[name].resource; r != nil {
			r.Learn(c.committed())
		}
	}
}

// DRBD's quorum, quorum-isolate-primary and quorum-suspend-failover-busy: a Primary that is cut off acknowledges nothing;
// when it hears of the one that was promoted meanwhile its requests end without an acknowledgement, and it is resynced. A
// replica that saw neither Primary end is no split brain (quorum-failover-reconnect).
func TestQuorumIsolatePrimary(t *testing.T) {
	for _, bystander := range []string{"there", "away"} {
		t.Run("c is "+bystander, func(t *testing.T) {
			c := newTestCluster(t, "a", "b", "c")
			isolate, rejoin := c.isolated("a")
			c.crash("a")
			c.start("a")
			c.promote("a")
			c.writeSome("a", 5)
			c.converged("a")
			if bystander == "away" {
				c.crash("c")
				c.writeSome("a", 1)
			}
			isolate()
			pending := make(waitCompletion, 1)
			c.nodes["a"].resource.Volume().Write(randomBytes(4096), 12288, false, nil, pending)
			c.wait("a waits", func() bool { return c.nodes["a"].resource.Status().Suspended })
			c.again("b")
			want := randomBytes(4096)
			c.write("b", 12288, want)
			select {
			case err := <-pending:
				t.Fatalf("the write on the Primary that is cut off was answered: %v", err)
			default:
			}
			rejoin()
			if err := c.answer("the write", pending); err == nil {
				t.Error("it was acknowledged")
			}
			if bystander == "away" {
				c.start("c")
			}
			c.converged("b")
			got := make([]byte, len(want))
			if err := c.tryRead("b", 12288, got); err != nil || string(got) != string(want) {
				t.Errorf("other data, or %v", err)
			}
		})
	}
}

// DRBD's quorum-lost-uuid: a generation that nobody but its Primary heard of, before that was lost, is passed over.
func TestQuorumLostUuid(t *testing.T) {
	c := newTestCluster(t, "a", "b", "c")
	isolate, rejoin := c.isolated("a")
	c.crash("a")
	c.start("a")
	c.promote("a")
	c.converged("a")
	c.demote("a")
	var unheard atomic.Bool
	c.arbiter.mu.Lock()
	learn := c.arbiter.learn
	c.arbiter.learn = func(conf Configuration) {
		if !unheard.Load() {
			learn(conf)
		}
	}
	c.arbiter.before = func(p Proposal) {
		if p.Node == "a" && p.Kind == ProposePromote {
			unheard.Store(true)
			isolate()
		}
	}
	c.arbiter.mu.Unlock()
	c.promote("a")
	c.nodes["a"].resource.Volume().Write(randomBytes(4096), 12288, false, nil, make(waitCompletion, 1))
	if b := c.nodes["b"].resource.Status(); b.Generation >= c.committed().Generation {
		t.Errorf("b has heard of generation %d", b.Generation)
	}
	c.crash("a")
	rejoin()
	unheard.Store(false)
	c.learn(c.committed())
	c.again("b")
	c.write("b", 12288, randomBytes(4096))
	c.start("a")
	c.converged("b")
}

// DRBD's quorate-data-divergence: the replica that missed writes does not serve while the one that has them is away.
func TestQuorateDataDivergence(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.converged("a")
	c.crash("b")
	c.writeSome("a", 3)
	c.crash("a")
	c.start("b")
	if err := c.nodes["b"].resource.Promote(t.Context()); !errors.Is(err, ErrRefused) {
		t.Fatalf("a replica that missed writes is promoted: %v", err)
	}
	if state := c.diskState("b"); state != "Outdated" { // outdate
		t.Errorf("its disk is %s", state)
	}
	c.start("a")
	c.again("a")
	c.converged("a")
}

// DRBD's diskless-connect-older, diskless-primary-uuid-bump, -lost-peer-same-uuid and -split-brain, resync-w-dless-pri: a
// Primary has lost its disk and goes on through b, while c loses its link or its node, misses writes or none, and returns.
// c is not in sync by that, and can't be promoted; b can, and takes both others back in any order.
func TestDisklessPrimary(t *testing.T) {
	for _, tt := range []struct {
		name          string
		killed, empty bool // c
		writes        int  // that it misses
		first         string
	}{
		{"diskless-connect-older", true, false, 5, "c"},
		{"diskless-primary-uuid-bump", false, false, 1, "a"},
		{"diskless-primary-lost-peer-same-uuid", false, false, 0, "c"},
		{"recreate-node-day0-diskless", true, true, 5, "a"},
		{"day0-uuid-diskless-primary", true, true, 0, "c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCluster(t, "a", "b", "c")
			c.promote("a")
			c.writeSome("a", 5)
			c.converged("a")
			c.nodes["a"].disk.failing("write", syscall.EIO)
			c.write("a", 4096, randomBytes(4096))
			c.wait("a goes on without its disk", func() bool { return c.inSync() == "[b c]" })
			before := c.committed().Generation
			if tt.killed {
				c.crash("c")
			} else {
				c.wiring.cut("a", "c")
			}
			c.writeSome("a", tt.writes)
			c.wait("c is out", func() bool { return c.inSync() == "[b]" })
			if tt.empty {
				c.recreate("c")
			}
			if tt.killed {
				c.start("c")
			}
			c.wait("c is connected", func() bool { return c.session("a", "c") != nil })
			c.writeSome("a", 2)
			if conf := c.committed(); conf.Generation != before+1 || c.inSync() != "[b]" {
				t.Errorf("generation %d after %d, in sync are %v", conf.Generation, before, conf.InSync)
			}
			want := randomBytes(4096)
			c.write("a", 8192, want)
			c.flush("a")
			c.crash("a")
			if err := c.nodes["c"].resource.Promote(t.Context()); !errors.Is(err, ErrRefused) {
				t.Errorf("c is promoted: %v", err)
			}
			if tt.first == "a" {
				c.crash("c")
			}
			c.again("b")
			c.nodes["a"].disk.fault.Store(nil)
			c.start("a")
			if tt.first == "a" {
				c.wait("a in sync", func() bool { return strings.Contains(c.inSync(), "a") })
				c.start("c")
			}
			c.converged("b")
			got := make([]byte, len(want))
			if err := c.tryRead("b", 8192, got); err != nil || string(got) != string(want) {
				t.Errorf("other data, or %v", err)
			}
		})
	}
}

// recreate gives a node that is down an empty disk with new metadata.
func (c *testCluster) recreate(name string) {
	c.t.Helper()
	n, conf := c.nodes[name], c.committed()
	n.disk = &memoryDisk{p: make([]byte, testDeviceBytes)}
	n.meta = &memoryDisk{p: make([]byte, MetadataBytes(testDeviceBytes, 0))}
	cfg := FormatConfig{ClusterID: "c", Resource: "r0", Node: name, ResourceID: conf.ResourceID, Slot: conf.replica(name).Slot,
		SizeBytes: testDeviceBytes, JustCreated: true}
	if err := Format(n.meta, cfg); err != nil {
		c.t.Fatal(err)
	}
}

// DRBD's day0-uuid-three-node and recreate-node-day0: a replica that was made anew gets everything, whoever is Primary.
func TestRecreatedReplica(t *testing.T) {
	c := newTestCluster(t, "a", "b", "c")
	c.promote("a")
	c.writeSome("a", 5)
	for _, primary := range []string{"a", "b"} {
		c.converged("a")
		c.crash("c")
		c.handOver("a", primary)
		c.wait("c is out", func() bool { conf := c.committed(); return !conf.inSync("c") }) // else nobody puts another disk in its place
		c.recreate("c")
		c.start("c")
		c.converged(primary)
		c.handOver(primary, "a")
	}
}

// A replica is put back as it was when it was created, under a Primary that is not the first: it is not taken for what left.
func TestFirstDayIsRestored(t *testing.T) {
	c := newTestCluster(t, "a", "b", "c")
	c.promote("a")
	c.writeSome("a", 5)
	c.converged("a")
	c.demote("a")
	c.crash("c")
	c.recreate("c")
	c.start("c")
	c.again("b")
	c.converged("b")
}

// DRBD's resync and resync-to-older: three replicas of three generations return in any order, and get what they lack.
func TestResyncOfThreeGenerations(t *testing.T) {
	for _, order := range []string{"bc", "cb"} {
		c := newTestCluster(t, "a", "b", "c")
		c.promote("a")
		c.writeSome("a", 5)
		c.converged("a")
		lacks := map[string]uint64{}
		for _, name := range []string{"b", "c"} {
			c.flush("a") // else what is not stable comes on top
			if err := c.nodes[name].resource.Disconnect("a"); err != nil {
				t.Fatal(err)
			}
			c.wait(name+" is out", func() bool { return !strings.Contains(c.inSync(), name) })
			for i := range uint64(4) {
				c.write("a", 1<<20*(i+4*uint64(len(lacks))), randomBytes(bitmap.BlockBytes))
			}
			for out := range lacks {
				lacks[out] += 4
			}
			lacks[name] = 4
		}
		for name := range strings.SplitSeq(order, "") {
			if err := c.nodes[name].resource.Connect("a"); err != nil {
				t.Fatal(err)
			}
			c.wait(name+" is in sync", func() bool { return strings.Contains(c.inSync(), name) })
			if sent := c.session("a", name).sentBytes.Load(); sent != lacks[name]*bitmap.BlockBytes {
				t.Errorf("%d bytes were sent to %s, which lacked %d blocks", sent, name, lacks[name])
			}
		}
		c.converged("a")
	}
}

// DRBD's stress-al: extents come and go in a small activity log all the time, and the Primary dies. What was acknowledged
// is there, and all end equal.
func TestStressAl(t *testing.T) {
	c := newTestClusterWithLog(t, bitmap.MinALExtents, "a", "b")
	c.nodes["a"].resource.post(func() {})
	c.promote("a")
	primary, other := "a", "b"
	for range 10 {
		w, end := c.writing(primary)
		full := func(name string) {
			r := c.nodes[name].resource
			if err := r.call(t.Context(), r.activityLogFull); err != nil {
				t.Fatal(err)
			}
		}
		for i := range uint64(40) { // the device has no more extents than the log, so it says itself that it is full
			c.write(primary, i*11%8*bitmap.ExtentBytes+(500+i)*bitmap.BlockBytes, randomBytes(3*bitmap.BlockBytes)) // where the others don't write
			full(other)
			full(primary)
		}
		c.crash(primary)
		end()
		c.again(other)
		w.check(c, other)
		c.start(primary)
		c.converged(other)
		primary, other = other, primary
	}
}
