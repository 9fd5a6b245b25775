package replication

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"duet/bitmap"
)

func TestHeldLease(t *testing.T) {
	var l heldLease
	l.ask(1, 10)
	l.ask(2, 20)
	steps := []struct {
		round uint64
		news  bool
		until time.Duration
	}{
		{0, false, 0},               // never asked
		{3, false, 0},               // not asked yet
		{1, true, 110},              // from the asking on, not from the answer
		{1, false, 110},             // twice
		{2, true, 120},              //
		{1, false, 120},             // late
		{leaseRounds + 2, false, 0}, // a number that shares the place of another
	}
	for _, step := range steps {
		if news := l.granted(step.round, 100); news != step.news {
			t.Errorf("round %d is news: %v", step.round, news)
		}
		if step.until != 0 && l.until != step.until {
			t.Errorf("after round %d the lease ends at %d", step.round, l.until)
		}
	}
	l.ask(leaseRounds+1, 30) // takes the place of round 1
	if l.granted(1, 100) {
		t.Error("a round that was forgotten is granted")
	}
}

func TestGivenLease(t *testing.T) {
	var g givenLease
	if !g.grant(5, 100) || g.until != 100 {
		t.Errorf("the first: %+v", g)
	}
	if !g.grant(5, 90) || g.until != 100 {
		t.Errorf("a lease became shorter: %+v", g)
	}
	g.candidate = 6
	for generation, want := range map[uint64]bool{5: false, 6: false, 7: true} {
		if got := g.grant(generation, 200); got != want {
			t.Errorf("a candidate in generation 6 grants in %d: %v", generation, got)
		}
	}
}

func TestGuardOutlivesTheLease(t *testing.T) {
	const drift = 0.01 // each clock, in either direction
	lease := defaultLease
	if slowest := time.Duration(float64(lease) * (1 + drift) / (1 - drift)); guardOf(lease) < slowest+10*time.Millisecond {
		t.Errorf("a lease of %v may last %v, the guard is %v", lease, slowest, guardOf(lease))
	}
}

// testClock makes a node's leases run by a clock that stands still.
func (n *testNode) testClock(now *atomic.Int64) {
	v := n.resource.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	v.leases.Clock = func() time.Duration { return time.Duration(now.Load()) }
	n.resource.opened = 0
}

// refuseLeases makes a node grant none; false: it may again.
func (n *testNode) refuseLeases(refuse bool) {
	v := n.resource.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	v.given.candidate = 0
	if refuse {
		v.given.candidate = ^uint64(0)
	}
}

// waitingReads is how many reads of a node wait for leases.
func (n *testNode) waitingReads() int {
	v := n.resource.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.unleased)
}

// Another node may be Primary as soon as one that is in sync grants no lease: reads are not answered, writes are.
func TestReadWaitsForLeases(t *testing.T) {
	for _, mode := range []ReadMode{ReadsLease, ReadsConfirm} {
		t.Run(mode.String(), func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.crash("a")
			c.tweak = func(r *Resource) {
				r.volume.leases.Mode = mode
				r.volume.leases.Length = 20 * time.Millisecond
			}
			c.start("a")
			c.promote("a")
			want := randomBytes(bitmap.BlockBytes)
			c.write("a", 0, want)
			got := make([]byte, len(want))
			if err := c.tryRead("a", 0, got); err != nil || string(got) != string(want) {
				t.Fatalf("with a lease: other data, or %v", err)
			}
			c.nodes["b"].refuseLeases(true)
			answered := make(waitCompletion, 1)
			c.wait("a read to wait", func() bool { // the lease that is out may serve some more
				c.nodes["a"].resource.Volume().Read(make([]byte, 4096), 0, nil, answered)
				select {
				case err := <-answered:
					if err != nil {
						t.Fatal(err)
					}
					return false
				case <-time.After(time.Millisecond):
					return c.nodes["a"].waitingReads() == 1
				}
			})
			c.write("a", 1<<20, want)
			c.nodes["b"].refuseLeases(false)
			if err := <-answered; err != nil {
				t.Errorf("the read that waited: %v", err)
			}
			if c.nodes["a"].waitingReads() != 0 {
				t.Error("it waits still")
			}
		})
	}
}

// A member that refuses leases for ever, since a promotion of it has no known outcome, is taken out: what waits goes on.
func TestMemberWithoutLeasesIsRemoved(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.crash("a")
	c.tweak = func(r *Resource) { r.cfg.Timing.PeerTimeout = 200 * time.Millisecond }
	c.start("a")
	c.promote("a")
	c.write("a", 0, randomBytes(4096))
	generation := c.arbiter.record().Generation
	b := c.nodes["b"].resource.volume
	b.mu.Lock()
	b.given.candidate = generation
	b.mu.Unlock()
	c.wait("b to be removed, and to come back", func() bool { return c.arbiter.record().Generation >= generation+2 && c.allInSync() })
	if err := c.tryRead("a", 0, make([]byte, 4096)); err != nil {
		t.Error(err)
	}
}

// Whoever granted a lease waits until it is over before it asks to be promoted, by its own clock; also if it can't remember.
func TestPromotionWaitsForLeases(t *testing.T) {
	for _, name := range []string{"granted by this run", "perhaps granted by an earlier run", "granted to a Primary that was deposed"} {
		t.Run(name, func(t *testing.T) {
			restart := strings.Contains(name, "earlier")
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.write("a", 0, randomBytes(4096))
			b := c.nodes["b"]
			c.wait("a lease", func() bool {
				b.resource.volume.mu.Lock()
				defer b.resource.volume.mu.Unlock()
				return b.resource.volume.given.until > 0
			})
			c.crash("a")
			if restart {
				c.crash("b")
				c.start("b")
			}
			if strings.Contains(name, "deposed") {
				c.depose("b")
			}
			var now atomic.Int64
			b.testClock(&now)
			b.resource.volume.mu.Lock()
			b.resource.volume.given.until = 0
			if !restart {
				b.resource.volume.given.until = guardOf(defaultLease)
			}
			b.resource.volume.mu.Unlock()
			var asked atomic.Bool
			c.arbiter.before = func(p Proposal) { asked.Store(p.Kind == ProposePromote || asked.Load()) }
			promoted := make(chan error, 1)
			go func() {
				for { // the session with a has to end first
					err := b.resource.Promote(t.Context())
					if err == nil || t.Context().Err() != nil {
						promoted <- err
						return
					}
				}
			}()
			c.wait("the candidacy", func() bool {
				b.resource.volume.mu.Lock()
				defer b.resource.volume.mu.Unlock()
				return b.resource.volume.given.candidate > 0
			})
			now.Store(int64(guardOf(defaultLease)) - 1)
			if asked.Load() {
				t.Error("it asks to be promoted while a lease may be out")
			}
			now.Store(int64(guardOf(defaultLease)))
			if err := <-promoted; err != nil {
				t.Error(err)
			}
		})
	}
}

// depose is the operator's word that node is kept, and that nobody reaches the Primary.
func (c *testCluster) depose(node string) {
	c.arbiter.mu.Lock()
	conf := c.arbiter.conf
	conf.Generation, conf.Primary, conf.PrimaryIncarnation, conf.InSync = conf.Generation+1, "", 0, []string{node}
	c.arbiter.conf = conf
	c.arbiter.mu.Unlock()
	c.nodes[node].resource.Learn(conf)
}

// commitAnd is an arbiter that says that a promotion was committed; the record is what follows from it.
type commitAnd struct {
	record Configuration
	then   func()
}

func (c commitAnd) Propose(_ context.Context, p Proposal) (Configuration, error) {
	c.then()
	conf := c.record
	conf.Generation, conf.Primary, conf.PrimaryIncarnation, conf.InSync, conf.Clean = p.Generation+1, p.Node, p.Incarnation, []string{p.Node}, false
	return conf, nil
}

// Who was promoted and gave up waiting for the role grants no lease for the generation before it: the former Primary may be
// the last to hear of it.
func TestAbandonedPromotionGrantsNoLease(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	b := c.nodes["b"].resource
	record := c.arbiter.record()
	p := Proposal{Kind: ProposePromote, Generation: record.Generation, Node: "b", Incarnation: b.cfg.Incarnation}
	ctx, cancel := context.WithCancel(t.Context())
	b.cfg.Arbiter = commitAnd{record, cancel}
	err := b.promoteBy(ctx, func() (Proposal, bool, error) { return p, false, nil })
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("abandoned with %v", err)
	}
	if err := b.call(t.Context(), func() {}); err != nil { // behind the end of the attempt
		t.Fatal(err)
	}
	v := b.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.given.grant(p.Generation, time.Hour) {
		t.Error("it grants a lease in the generation that its own promotion ended")
	}
}

// What is known of the end of a process is not held against a later Primary of that node, whose incarnation may be lower: it has
// joined again.
func TestEndedPrimary(t *testing.T) {
	r := &Resource{exited: map[string]exit{"a": {incarnation: 7, generation: 20}}}
	for _, c := range []struct {
		primary            string
		incarnation, since uint64
		want               bool
	}{
		{"a", 7, 5, true},
		{"a", 6, 5, true},
		{"a", 7, 20, true},
		{"a", 8, 5, false},
		{"a", 1, 21, false},
		{"b", 7, 5, false},
		{"", 0, 5, false},
	} {
		conf := Configuration{Primary: c.primary, PrimaryIncarnation: c.incarnation, PrimarySince: c.since}
		if got := r.ended(&conf); got != c.want {
			t.Errorf("incarnation %d of %q, Primary since %d: %v", c.incarnation, c.primary, c.since, got)
		}
	}
}

// A replica that left in good order stays in the set while the Primary gives its role up, and grants nothing: a read that
// waits for it must not keep the role.
func TestDemotionWithAReadThatWaits(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.crash("a")
	c.tweak = func(r *Resource) { r.cfg.Timing.PeerTimeout = time.Hour } // nobody is removed for refusing
	c.start("a")
	c.promote("a")
	c.write("a", 0, randomBytes(4096))
	c.nodes["b"].refuseLeases(true)
	answered := make(waitCompletion, 1<<14) // a lease that was granted before lasts for some of them
	c.wait("a read to wait", func() bool {
		if len(answered) < cap(answered) {
			c.nodes["a"].resource.Volume().Read(make([]byte, 4096), 0, nil, answered)
		}
		return c.nodes["a"].waitingReads() > 0
	})
	if err := c.nodes["a"].resource.Demote(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.wait("the reads to end", func() bool { return c.nodes["a"].waitingReads() == 0 && c.nodes["a"].resource.Volume().Left() == "" })
}
