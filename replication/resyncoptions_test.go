package replication

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// stateOf is the replication state of a node towards its peer, and who paused the resync.
func (c *testCluster) stateOf(name string) (string, string) {
	st := c.nodes[name].resource.Status()
	if st.Resync == nil {
		return st.Peers[0].ReplicationState, ""
	}
	return st.Peers[0].ReplicationState, strings.Join(st.Resync.PausedBy, " ")
}

func (c *testCluster) waitState(name, state, by string) {
	c.t.Helper()
	c.wait(name+" is "+state+" by "+by, func() bool {
		gotState, gotBy := c.stateOf(name)
		return gotState == state && gotBy == by
	})
}

func (c *testCluster) change(name string, change ResyncChange) {
	c.t.Helper()
	if err := c.nodes[name].resource.ChangeResync(change); err != nil {
		c.t.Fatal(err)
	}
}

func TestPausedResync(t *testing.T) {
	for _, pauser := range []string{"a", "b"} {
		t.Run("by "+pauser, func(t *testing.T) {
			c := newReturningCluster(t, func(a, _ *testNode) { copy(a.disk.p, randomBytes(testDeviceBytes)) })
			c.tweak = func(r *Resource) { r.volume.resyncs.paused = r.cfg.Node == pauser }
			c.change("a", ResyncChange{Paused: new(pauser == "a")})
			c.start("b")
			c.waitState("a", "PausedSyncS", pauser)
			c.waitState("b", "PausedSyncT", pauser)
			if err := c.nodes["b"].resource.Disconnect("a"); err != nil {
				t.Fatal(err)
			}
			c.waitState("a", "Off", "")
			if err := c.nodes["b"].resource.Connect("a"); err != nil {
				t.Fatal(err)
			}
			c.waitState("a", "PausedSyncS", pauser)
			c.waitState("b", "PausedSyncT", pauser)
			c.write("a", 1<<20, randomBytes(8192)) // writes go to the target all the same
			if sent, eta := c.sourceSent(), c.nodes["a"].resource.Status().Resync.ETASeconds; sent != 0 || eta != -1 {
				t.Errorf("%d bytes were sent, %d s are left", sent, eta)
			}
			c.change(pauser, ResyncChange{Paused: new(false)})
			c.wait("b in sync", c.allInSync)
			c.equal()
		})
	}
}

func TestPausedByBoth(t *testing.T) {
	c := newReturningCluster(t, func(a, _ *testNode) { copy(a.disk.p, randomBytes(testDeviceBytes)) })
	c.tweak = func(r *Resource) { r.volume.resyncs.paused = true }
	c.change("a", ResyncChange{Paused: new(true)})
	c.start("b")
	c.waitState("a", "PausedSyncS", "a b")
	c.waitState("b", "PausedSyncT", "b a")
	c.change("a", ResyncChange{Paused: new(false)})
	c.waitState("a", "PausedSyncS", "b")
	c.waitState("b", "PausedSyncT", "b")
	c.change("b", ResyncChange{Paused: new(false)})
	c.wait("b in sync", c.allInSync)
	c.equal()
}

func TestPauseInTheMiddle(t *testing.T) {
	c := newReturningCluster(t, func(a, _ *testNode) { copy(a.disk.p, randomBytes(testDeviceBytes)) })
	c.change("a", ResyncChange{MaxRate: new(uint64(4 << 20))})
	c.start("b")
	c.wait("some is copied", func() bool {
		st := c.nodes["a"].resource.Status()
		return st.Resync != nil && st.Resync.DoneBytes > 0
	})
	c.change("a", ResyncChange{Paused: new(true)})
	c.waitState("b", "PausedSyncT", "a")
	if st := c.nodes["b"].resource.Status(); st.Resync.DoneBytes == st.Resync.TotalBytes {
		t.Error("all is copied")
	}
	c.change("a", ResyncChange{Paused: new(false), MaxRate: new(uint64(0))})
	c.wait("b in sync", c.allInSync)
	c.equal()
}

// TestMaxRate: the limit of either end counts, for what is really copied.
func TestMaxRate(t *testing.T) {
	for name, limits := range map[string][2]uint64{"at the source": {64 << 20, 0}, "at the target": {0, 64 << 20}, "the lower": {1 << 30, 64 << 20}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newReturningCluster(t, func(a, _ *testNode) { copy(a.disk.p, randomBytes(testDeviceBytes)) })
			c.change("a", ResyncChange{MaxRate: &limits[0]})
			c.tweak = func(r *Resource) { r.volume.resyncs.maxRate = limits[1] }
			began := time.Now()
			c.start("b")
			c.wait("b in sync", c.allInSync)
			if took := time.Since(began); took < 350*time.Millisecond {
				t.Errorf("32 MiB at 64 MiB/s took %v", took)
			}
		})
	}
}

func TestHolesDontCountForTheRate(t *testing.T) {
	c := newReturningCluster(t, func(a, b *testNode) {
		a.disk.becomeSparse()
		b.disk.becomeSparse()
	})
	c.change("a", ResyncChange{MaxRate: new(uint64(1 << 20))})
	began := time.Now()
	c.start("b")
	c.wait("b in sync", c.allInSync)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("32 MiB of holes at 1 MiB/s took %v", took)
	}
}

func TestRateBucket(t *testing.T) {
	now := time.Unix(1000, 0)
	var b rateBucket
	total := uint64(0)
	for ; now.Before(time.Unix(1002, 0)); now = now.Add(time.Millisecond) {
		for b.wait(now) == 0 {
			b.take(now, 64<<10, 10<<20)
			total += 64 << 10
		}
	}
	if want := uint64(20 << 20); total < want || total > want+want/20 {
		t.Errorf("%d bytes in 2 s at 10 MiB/s", total)
	}
	now = now.Add(time.Hour) // a missed hour is not made up for
	b.take(now, 1<<20, 1<<20)
	if wait := b.wait(now); wait < 900*time.Millisecond {
		t.Errorf("the next is due in %v", wait)
	}
	b.giveBack(1<<20, 1<<20)
	if wait := b.wait(now); wait != 0 {
		t.Errorf("the next is due in %v although nothing was copied", wait)
	}
	b.take(now, 1<<20, 0)
	if wait := b.wait(now); wait != 0 {
		t.Errorf("without a limit the next is due in %v", wait)
	}
}

func TestRequestForRate(t *testing.T) {
	for rate, want := range map[uint64]uint64{1: smallestRequest, 1 << 20: smallestRequest, 10 << 20: 208896, 1 << 40: MaxResyncBytes} {
		if got := requestFor(rate); got != want {
			t.Errorf("%d at %d/s, want %d", got, rate, want)
		}
	}
}

func TestControlMessage(t *testing.T) {
	for text, want := range map[string]error{
		`{}`: nil, `{"paused":true,"hold":true,"rate":1,"window-bytes":1,"request-bytes":4096}`: nil,
		`{"request-bytes":4097}`: errMessage, `{"request-bytes":2097152}`: errMessage, `{"rate":-1}`: errMessage, `[]`: errMessage,
	} {
		if err := decodeMessage(FrameResyncControl, []byte(text), new(controlMessage)); !errors.Is(err, want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestCompareOnRequest(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.change("a", ResyncChange{CompareAlways: new(true)})
	content := randomBytes(1 << 20)
	c.write("a", 0, content)
	c.flush("a")
	if err := c.nodes["b"].resource.Disconnect(""); err != nil {
		t.Fatal(err)
	}
	c.wait("b is removed", func() bool {
		c.arbiter.mu.Lock()
		defer c.arbiter.mu.Unlock()
		return slices.Equal(c.arbiter.conf.InSync, []string{"a"})
	})
	c.write("a", 0, content)
	c.write("a", 4096, randomBytes(4096))
	if err := c.nodes["b"].resource.Connect(""); err != nil {
		t.Fatal(err)
	}
	c.wait("b in sync", c.allInSync)
	c.equal()
	if sent := c.sourceSent(); sent != 4096 {
		t.Errorf("%d bytes were sent", sent)
	}
}
