package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"duet/bitmap"
)

// switchTo hands the role over and says how that went.
func (c *testCluster) switchTo(ctx context.Context, from, to string) (HandedOver, error) {
	return c.nodes[from].resource.HandOver(ctx, to, c.nodes[to].incarnation)
}

// switched hands the role over, which must succeed, and waits until the new Primary serves.
func (c *testCluster) switched(from, to string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	done, err := c.switchTo(ctx, from, to)
	if err != nil {
		c.t.Fatal(err)
	}
	if done.Drain < 0 || done.Commit < 0 || done.Generation == 0 {
		c.t.Errorf("took %+v", done)
	}
	if err := c.nodes[to].resource.AwaitServing(ctx, done.Generation); err != nil {
		c.t.Fatal(err)
	}
}

// before has an arbiter call act with the first proposal of a kind.
func (c *testCluster) before(kind ProposalKind, act func()) {
	var once atomic.Bool
	c.arbiter.mu.Lock()
	defer c.arbiter.mu.Unlock()
	c.arbiter.before = func(p Proposal) {
		if p.Kind == kind && once.CompareAndSwap(false, true) {
			act()
		}
	}
}

// The role goes back and forth while somebody writes who follows it. Nothing acknowledged is lost, nobody leaves the set, nothing is
// copied.
func TestHandOverKeepsTheSet(t *testing.T) {
	for _, names := range [][]string{{"a", "b"}, {"a", "b", "c"}} {
		t.Run(fmt.Sprint(len(names)), func(t *testing.T) {
			c := newTestCluster(t, names...)
			c.promote("a")
			for round := range 12 {
				from, to := names[round%len(names)], names[(round+1)%len(names)]
				c.writeSome(from, 20)
				c.switched(from, to)
				if got := c.arbiter.record(); len(got.InSync) != len(names) || got.Primary != to || got.Clean {
					t.Fatalf("the record is %+v", got)
				}
				if c.nodes[from].resource.Serving() {
					t.Fatalf("%s serves on", from)
				}
			}
			for _, name := range names {
				for _, peer := range c.nodes[name].resource.Status().Peers {
					if peer.OutOfSyncBytes != 0 {
						t.Errorf("%s has %d bytes out of sync towards %s", name, peer.OutOfSyncBytes, peer.Node)
					}
				}
			}
			c.equal()
		})
	}
}

// What waits for the switchover is never answered; its client is cut off, and only once the role is gone.
func TestHandOverAnswersNothingThatWaits(t *testing.T) {
	var c *testCluster
	var cut atomic.Bool
	c = newTestClusterWithLog(t, 0)
	c.revoke = func(string) {
		cut.Store(true)
		if c.nodes["a"].resource.Serving() {
			t.Error("a client may still come when those that there are get cut off")
		}
	}
	c.form("a", "b")
	c.promote("a")
	c.writeSome("a", 5)
	var waits waitCompletion
	c.before(ProposeSwitch, func() {
		waits = c.begin("a", 0)
		if cut.Load() {
			t.Error("clients are cut off before the role is gone")
		}
	})
	c.switched("a", "b")
	if !cut.Load() {
		t.Error("the clients of a are not cut off")
	}
	select {
	case err := <-waits:
		if !errors.Is(err, ErrFenced) && !errors.Is(err, ErrNotPrimary) {
			t.Errorf("a request that waited was answered: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("a request waits on")
	}
	c.writeSome("b", 5)
	c.equal()
}

func TestHandOverIsRefused(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(c *testCluster)
		from    string
		to      string
		older   uint64 // the target's incarnation is given so much too low
		want    error
	}{
		{"by a Secondary", func(*testCluster) {}, "b", "a", 0, ErrNotPrimary},
		{"to itself", func(*testCluster) {}, "a", "a", 0, ErrRefused},
		{"to nobody's replica", func(*testCluster) {}, "a", "z", 0, ErrRefused},
		{"to an earlier process", func(*testCluster) {}, "a", "b", 1, ErrRefused},
		{"to one that is not connected", func(c *testCluster) {
			c.crash("b")
			c.wait("b leaves the set", func() bool { return c.inSync() == "[a]" })
		}, "a", "b", 0, ErrRefused},
		{"while the operator has suspended requests", func(c *testCluster) {
			if _, err := c.nodes["a"].resource.SuspendIO(c.t.Context(), SuspendOptions{}); err != nil {
				c.t.Fatal(err)
			}
		}, "a", "b", 0, ErrRefused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.writeSome("a", 1)
			tt.prepare(c)
			incarnation := uint64(1)
			if n := c.nodes[tt.to]; n != nil {
				incarnation = n.incarnation
			}
			_, err := c.nodes[tt.from].resource.HandOver(t.Context(), tt.to, incarnation-tt.older)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if got := c.arbiter.record().Primary; got != "a" {
				t.Errorf("the Primary is %q", got)
			}
		})
	}
}

// The record may refuse, nobody may decide, the target may be lost, or time may run out before anything is proposed: then
// everything goes on as it was.
func TestFailedHandOverGoesOnAsBefore(t *testing.T) {
	outcome := func(answer error) func(c *testCluster) {
		return func(c *testCluster) {
			c.arbiter.mu.Lock()
			defer c.arbiter.mu.Unlock()
			c.arbiter.refuse = func(p Proposal) error {
				if p.Kind == ProposeSwitch {
					return answer
				}
				return nil
			}
		}
	}
	tests := []struct {
		name    string
		prepare func(c *testCluster)
		limit   time.Duration
		want    error
		inSync  string
	}{
		{"the record refuses", outcome(ErrRejected), 20 * time.Second, ErrRejected, "[a b]"},
		{"nobody decides", outcome(ErrNoMajority), 20 * time.Second, ErrNoMajority, "[a b]"},
		{"the target dies", func(c *testCluster) {
			c.arbiter.mu.Lock()
			defer c.arbiter.mu.Unlock()
			c.arbiter.refuse = func(p Proposal) error {
				if p.Kind != ProposeSwitch {
					return nil
				}
				c.arbiter.refuse = nil
				go c.crash("b")
				return ErrStale
			}
		}, 20 * time.Second, ErrRefused, "[a]"},
		{"what is under way takes too long", func(c *testCluster) {
			_, release := holdDisk(c.nodes["b"].disk, "write")
			c.begin("a", 0)
			c.t.Cleanup(func() { close(release) })
		}, 100 * time.Millisecond, context.DeadlineExceeded, "[a b]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.write("a", 0, randomBytes(bitmap.BlockBytes))
			tt.prepare(c)
			ctx, cancel := context.WithTimeout(t.Context(), tt.limit)
			defer cancel()
			if _, err := c.switchTo(ctx, "a", "b"); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			c.wait("a to go on", func() bool { return c.nodes["a"].resource.Status().Serving && c.inSync() == tt.inSync })
			c.nodes["b"].disk.fault.Store(nil)
			c.arbiter.mu.Lock()
			c.arbiter.refuse = nil
			c.arbiter.mu.Unlock()
			if tt.limit > time.Second {
				c.writeSome("a", 5)
			}
		})
	}
}

// While nobody knows whether the switchover is committed the old Primary answers nothing, also after the command gave up; whichever
// way it turns out, one node goes on.
func TestHandOverOfUnknownOutcome(t *testing.T) {
	for _, committed := range []bool{false, true} {
		t.Run(fmt.Sprintf("committed %v", committed), func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.writeSome("a", 5)
			var silent atomic.Bool
			silent.Store(true)
			c.arbiter.mu.Lock()
			c.arbiter.refuse = func(p Proposal) error {
				if p.Kind == ProposeSwitch && silent.Load() {
					return errors.New("no answer")
				}
				return nil
			}
			c.arbiter.mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, err := c.switchTo(ctx, "a", "b"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			waits := c.begin("a", 0)
			c.parked("a")
			if !committed { // another change is committed instead: what was in flight is stale
				c.crash("b")
				c.wait("b leaves the set", func() bool { return c.inSync() == "[a]" })
				if err := <-waits; err != nil {
					t.Error(err)
				}
				c.writeSome("a", 5)
				return
			}
			silent.Store(false)
			c.wait("b to serve", c.nodes["b"].resource.Serving)
			if err := <-waits; !errors.Is(err, ErrFenced) && !errors.Is(err, ErrNotPrimary) {
				t.Errorf("the request that waited ended with %v", err)
			}
			c.writeSome("b", 5)
			c.equal()
		})
	}
}

// Either node may die in the moment of the commit. The other one has everything, and goes on.
func TestDeathInAHandOver(t *testing.T) {
	for _, dies := range []string{"a", "b"} {
		for _, when := range []string{"before", "after"} {
			t.Run(dies+" "+when, func(t *testing.T) {
				c := newTestCluster(t, "a", "b")
				c.promote("a")
				content := randomBytes(8 * bitmap.BlockBytes)
				c.write("a", 0, content)
				at := make(chan struct{})
				c.before(ProposeSwitch, func() {
					if when == "before" {
						go c.crash(dies) // which waits for the proposal to return
						c.wait("the death", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.nodes[dies].resource == nil })
					}
					close(at)
				})
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				over := make(chan error, 1)
				a := c.nodes["a"].resource
				go func() {
					_, err := a.HandOver(ctx, "b", 1)
					over <- err
				}()
				<-at
				if when == "after" {
					c.wait("the commit", func() bool { return c.arbiter.record().Primary == "b" })
					c.crash(dies)
				}
				if err := <-over; err != nil {
					t.Logf("the switchover ends with %v", err) // either way is right
				}
				heir := "b"
				if dies == "b" {
					heir = "a"
				}
				c.wait(heir+" to go on", func() bool {
					r := c.nodes[heir].resource
					if c.arbiter.record().Primary == heir && r.Status().Serving && !r.Status().Suspended {
						return true
					}
					attempt, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
					defer cancel()
					err := r.Promote(attempt)
					return err == nil && !r.Status().Suspended
				})
				got := make([]byte, len(content))
				if err := c.tryRead(heir, 0, got); err != nil || !slices.Equal(got, content) {
					t.Errorf("reads something else, %v", err)
				}
				c.start(dies)
				c.wait("both to be in sync", c.allInSync)
				c.equal()
			})
		}
	}
}

// A switchover waits for what is under way, and not for the next look at the clock.
func TestHandOverDoesNotWaitForATick(t *testing.T) {
	c := newTestClusterWithLog(t, 0)
	c.tweak = func(r *Resource) {
		r.cfg.Timing.PingInterval, r.cfg.Timing.PeerTimeout, r.cfg.Timing.LeaseInterval = time.Minute, time.Hour, time.Hour
	}
	c.form("a", "b")
	c.promote("b") // which doesn't dial: nothing but the end of what is under way wakes it
	c.write("b", 0, randomBytes(bitmap.BlockBytes))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// The flush ahead passes; a write that has come behind it is under way, on a, when requests begin to wait.
	primary, target := c.nodes["b"].resource, c.nodes["a"]
	held, release := make(chan struct{}, 64), make(chan struct{})
	var flushes atomic.Int32
	fault := func(what string) error {
		switch {
		case what == "sync" && flushes.Add(1) == 1:
			c.begin("b", 0) // its extent is hot
		case what == "write":
			held <- struct{}{}
			<-release
		}
		return nil
	}
	target.disk.fault.Store(&fault)
	over := make(chan error, 1)
	go func() {
		done, err := primary.HandOver(ctx, "a", target.incarnation)
		if err == nil {
			err = target.resource.AwaitServing(ctx, done.Generation)
		}
		over <- err
	}()
	<-held
	c.wait("requests to wait", func() bool {
		primary.volume.mu.Lock()
		defer primary.volume.mu.Unlock()
		return primary.volume.gate == gateSuspended && primary.volume.settling
	})
	close(release)
	if err := <-over; err != nil {
		t.Fatal(err)
	}
}

// A member that ends the session before it has taken a fresh Primary's generation up lacks nothing: it stays in the set, and nothing
// is served without it.
func TestUnconfirmedMemberStays(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 5)
	held, release := c.hold("a", "b", FrameLeaseGrant, 0)
	over, err := c.switchTo(t.Context(), "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	<-held
	waits := c.begin("b", 0)
	c.parked("b")
	lost := c.session("b", "a")
	lost.fail(errors.New("the peer closed the connection"))
	<-lost.ended
	release()
	if err := c.nodes["b"].resource.AwaitServing(t.Context(), over.Generation); err != nil {
		t.Fatal(err)
	}
	if err := <-waits; err != nil {
		t.Error(err)
	}
	if got := c.arbiter.record(); len(got.InSync) != 2 || got.Generation != over.Generation {
		t.Errorf("the record is %+v", got)
	}
	c.equal()
}
