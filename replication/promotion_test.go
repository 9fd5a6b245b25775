package replication

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestFirstPromotionKeepsTheSet: the Secondary hears of the first Primary from that Primary's own session first, and of
// the record only while the session is in use. Nothing is removed for that.
func TestFirstPromotionKeepsTheSet(t *testing.T) {
	for range 20 {
		c := newTestCluster(t, "a", "b")
		held := make(chan Configuration, 16)
		c.arbiter.learn = func(conf Configuration) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.nodes["a"].resource.Learn(conf)
			held <- conf
		}
		c.promote("a")
		connected := func() bool {
			peers := c.nodes["b"].resource.Status().Peers
			return peers[0].ConnectionState == "Connected" && peers[0].Role == "Primary" || len(c.nodes["b"].resource.Status().Reason) > 0
		}
		c.wait("b is connected to the new Primary", connected)
		c.nodes["b"].resource.Learn(<-held)
		c.writeSome("a", 5)
		c.arbiter.mu.Lock()
		generation := c.arbiter.conf.Generation
		c.arbiter.mu.Unlock()
		if generation != 2 {
			t.Fatalf("the promotion led to generation %d, with a removal, instead of 2", generation)
		}
		c.equal()
	}
}

// TestFormerTargetAsksWhatTheOldPrimaryChanged: a node that was resynced by the Primary, and takes its place when that
// crashes, knows nothing of the writes that reached only the crashed one's disk.
func TestFormerTargetAsksWhatTheOldPrimaryChanged(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 20)
	c.crash("b")
	c.writeSome("a", 20)
	c.start("b")
	c.wait("b in sync again", c.allInSync)
	c.write("a", 4096, randomBytes(4096)) // makes the extent hot, as every write to it would
	c.crash("a")
	copy(c.nodes["a"].disk.p[8192:], randomBytes(4096)) // a write that reached only the local disk
	c.wait("b notices", func() bool { return c.nodes["b"].resource.Status().Peers[0].ConnectionState != "Connected" })
	c.promote("b")
	c.start("a")
	c.wait("a in sync again", c.allInSync)
	c.equal()
}

// TestResyncNeedsOneAttempt: the word that the last blocks are written, and the word that there are no more, come by
// different connections, in any order.
func TestResyncNeedsOneAttempt(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	var again atomic.Int64
	c.emit = func(e Event) {
		if strings.Contains(e.Reason, "starts again") || strings.Contains(e.Reason, "in sync already") {
			again.Add(1)
		}
	}
	c.crash("a")
	c.start("a") // with the listener of events
	c.promote("a")
	for range 30 {
		c.crash("b")
		c.writeSome("a", 40)
		c.start("b")
		c.wait("b in sync again", c.allInSync)
	}
	c.equal()
	if n := again.Load(); n > 0 {
		t.Errorf("%d of 30 resyncs began again", n)
	}
}

// When everything is stopped at once, a Secondary may be gone before the Primary has given its role up. It has everything
// and stays in the set.
func TestSecondaryLeavesDuringTheDemotion(t *testing.T) {
	for range 20 {
		c := newTestCluster(t, "a", "b")
		c.promote("a")
		c.writeSome("a", 10)
		var stops sync.WaitGroup
		for _, name := range []string{"a", "b"} {
			stops.Go(func() {
				if err := c.nodes[name].resource.Close(t.Context()); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		stops.Wait()
		if got := c.inSync(); got != "[a b]" {
			t.Fatalf("in sync are %s", got)
		}
		c.equal()
		c.nodes["a"].resource, c.nodes["b"].resource = nil, nil
	}
}

// A member that connects while its removal is under way, and is taken up as a member, comes back by a resync when the
// removal is committed.
func TestMemberConnectsDuringItsRemoval(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.crash("b")
	var once sync.Once
	c.arbiter.mu.Lock()
	c.arbiter.before = func(p Proposal) {
		if p.Kind != ProposeRemove {
			return
		}
		once.Do(func() {
			c.start("b")
			c.wait("b is taken up as a member", func() bool {
				peer := c.nodes["a"].resource.Status().Peers[0]
				return peer.ConnectionState == "Connected" && !c.nodes["a"].resource.Status().Suspended
			})
		})
	}
	c.arbiter.mu.Unlock()
	c.promote("a")
	c.wait("b was removed and is in sync again", func() bool {
		c.arbiter.mu.Lock()
		generation := c.arbiter.conf.Generation
		c.arbiter.mu.Unlock()
		return generation >= 4 && c.allInSync()
	})
	c.equal()
}

// lastWord passes proposals on, but never returns from an admission: the Primary dies before it hears of the commit.
type lastWord struct{ Arbiter }

func (a lastWord) Propose(ctx context.Context, p Proposal) (Configuration, error) {
	conf, err := a.Arbiter.Propose(ctx, p)
	if p.Kind == ProposeAdd {
		<-ctx.Done()
		return Configuration{}, ctx.Err()
	}
	return conf, err
}

// A replica is in sync from the commit on, whether or not the Primary lived to tell it; and a later run of the Primary's
// node, which is connected when the record arrives, is not that Primary.
func TestAdmissionWithoutThePrimary(t *testing.T) {
	for _, returned := range []bool{false, true} {
		t.Run(fmt.Sprintf("returned=%v", returned), func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			want := c.dieBehindAdmission()
			if returned {
				c.tweak = nil
				c.start("a")
				c.wait("connected again", func() bool { return c.nodes["b"].resource.hears("a", c.nodes["a"].incarnation) })
			}
			b := c.nodes["b"].resource
			c.wait("the log to be bits", func() bool { return b.local.store.DirtyBlocks(0) > 0 })
			c.learn(c.arbiter.record())
			c.wait("b adopts the record", func() bool { return b.superblock().Promised >= c.arbiter.record().Generation })
			if b.local.store.DirtyBlocks(0) == 0 {
				t.Error("nothing says where b may differ from a, which died with writes that were not stable")
			}
			c.wait("b promoted", func() bool { return c.nodes["b"].resource.Promote(t.Context()) == nil })
			got := make([]byte, len(want))
			if err := c.tryRead("b", 8192, got); err != nil || string(got) != string(want) {
				t.Fatalf("other data, or %v", err)
			}
		})
	}
}

// dieBehindAdmission has b admitted and a, the Primary, dead before anybody is told. The result is what b got last.
func (c *testCluster) dieBehindAdmission() []byte {
	c.crash("a")
	c.tweak = func(r *Resource) {
		if r.cfg.Node == "a" {
			r.cfg.Arbiter = lastWord{r.cfg.Arbiter}
			r.cfg.Timing.IdleBarrier, r.cfg.Timing.BusyBarrier = time.Hour, time.Hour
		}
	}
	c.start("a")
	c.promote("a")
	c.crash("b")
	want := randomBytes(4096)
	c.write("a", 8192, want)
	c.arbiter.mu.Lock()
	c.arbiter.learn = func(conf Configuration) {
		if !conf.inSync("b") {
			c.learn(conf)
		}
	}
	c.arbiter.mu.Unlock()
	c.start("b")
	c.wait("b admitted", func() bool { return c.inSync() == "[a b]" })
	c.write("a", 16384, want)
	c.crash("a")
	c.arbiter.mu.Lock()
	defer c.arbiter.mu.Unlock()
	c.arbiter.learn = c.learn
	return want
}

// hears reports whether there is a session with that run of a node.
func (r *Resource) hears(node string, incarnation uint64) (yes bool) {
	err := r.call(r.ctx, func() {
		s := r.links[node].session
		yes = s != nil && s.hello.Incarnation == incarnation
	})
	return yes && err == nil
}
