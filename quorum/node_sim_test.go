package quorum

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// both runs a test over raft.InmemTransport and over our own streams.
func both(t *testing.T, test func(t *testing.T, b *bench)) {
	for name, inmem := range map[string]bool{"inmem": true, "streams": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, inmem)
				defer b.stopAll()
				test(t, b)
			})
		})
	}
}

func TestCommandsSurvivePartitions(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.form()
		b.propose("b", pairResource())
		generation := b.propose("a", promote(1, "a", 1)).Resource.Generation
		all := []string{"a", "b", "w"}
		for range 10 {
			lost := b.leader(all...)
			b.isolate(lost)
			rest := without(all, lost)
			b.leader(rest...)
			// Whoever proposes it: a is the Primary, and its removal of b raises the generation by one.
			generation = b.propose(rest[0], remove(generation, "b")).Resource.Generation
			generation = b.propose(rest[1], remove(generation, "b")).Resource.Generation
			b.rejoin(lost)
			b.barrier(lost)
			if got := b.nodes[lost].State().Resources["r"].Generation; got != generation {
				t.Fatalf("%s is at generation %d after a barrier, want %d", lost, got, generation)
			}
		}
		sameStates(t, b, all)
	})
}

func without(names []string, name string) []string {
	var rest []string
	for _, n := range names {
		if n != name {
			rest = append(rest, n)
		}
	}
	return rest
}

// sameStates checks that every node has come to the same record.
func sameStates(t *testing.T, b *bench, names []string) {
	t.Helper()
	var first []byte
	for _, name := range names {
		b.barrier(name)
	}
	for _, name := range names {
		data, err := encodeSnapshot(b.nodes[name].State(), 0)
		switch {
		case err != nil:
			t.Fatal(err)
		case first == nil:
			first = data
		case string(first) != string(data):
			t.Errorf("%s differs:\n%s\n%s", name, data, first)
		}
	}
}

func TestOneOfTwoRacingPromotesWinsInTheCluster(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.form()
		generation := b.propose("a", pairResource()).Resource.Generation
		for range 10 {
			results := make(chan error, 2)
			for _, name := range []string{"a", "b"} {
				go func() {
					_, err := b.nodes[name].Propose(t.Context(), promote(generation, name, 1))
					results <- err
				}()
			}
			first, second := <-results, <-results
			if (first == nil) == (second == nil) || !errors.Is(errors.Join(first, second), ErrStale) {
				t.Fatalf("racing promotions ended with %v and %v", first, second)
			}
			b.barrier("a")
			r := b.nodes["a"].State().Resources["r"]
			generation = b.propose("w", demote(r.Generation, r.Primary, true)).Resource.Generation
		}
	})
}

// Primary a has lost sight of the leader b. The witness sees both and relays.
func TestRequestsAreRelayedThroughAnyVoter(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.form()
		b.propose("a", pairResource())
		b.propose("a", promote(1, "a", 1))
		b.barrier("a")
		b.makeLeader("b")
		b.net.cut("a", "b")
		time.Sleep(2 * time.Second) // virtual: a has given up on the leader by then
		if got := b.nodes["w"].Status().Leader; got != "b" {
			t.Fatalf("the witness follows %q", got)
		}
		before := time.Now()
		result := b.propose("a", remove(2, "b"))
		if r := result.Resource; r.Generation != 3 || r.IsInSync("b") {
			t.Fatalf("record %+v", r)
		}
		if took := time.Since(before); took > time.Second {
			t.Errorf("it took %s", took)
		}
		if got := b.nodes["a"].State().Resources["r"].Generation; got != 2 {
			t.Errorf("a is at generation %d; this test wants it to be behind", got)
		}
		var read Result
		b.do("read", func(ctx context.Context) (err error) {
			read, err = b.nodes["a"].Read(ctx, "r")
			return err
		})
		if read.Resource.Generation != 3 || len(read.Resource.History) != 3 {
			t.Errorf("read %+v", read.Resource)
		}
		if _, err := b.nodes["a"].Propose(t.Context(), remove(2, "b")); !errors.Is(err, ErrStale) {
			t.Errorf("a stale command through the relay ended with %v", err)
		}
		b.net.heal("a", "b")
		sameStates(t, b, []string{"a", "b", "w"})
	})
}

func TestMinorityCannotDecide(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.form()
		b.propose("a", pairResource())
		b.makeLeader("b")
		b.isolate("a")
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := b.nodes["a"].Propose(ctx, promote(1, "a", 1)); !errors.Is(err, ErrNoLeader) {
			t.Errorf("an isolated follower's proposal ended with %v", err)
		}
		if err := b.nodes["a"].Barrier(ctx); err == nil {
			t.Error("an isolated follower passed a barrier")
		}
		b.rejoin("a")
		b.barrier("a")
		if r := b.nodes["a"].State().Resources["r"]; r.Generation != 1 {
			t.Errorf("a command that was reported as not executed was: %+v", r)
		}
	})
}

// The leader is cut off with a command in its hands: nobody can say what will become of it, and it says so.
func TestCutOffLeaderReportsUnknownOutcome(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.form()
		b.propose("a", pairResource())
		b.makeLeader("a")
		b.isolate("a")
		before := time.Now()
		_, err := b.nodes["a"].Propose(t.Context(), promote(1, "a", 1))
		if !errors.Is(err, ErrUnknownOutcome) || time.Since(before) > 3*time.Second {
			t.Errorf("after %s: %v", time.Since(before), err)
		}
		b.leader("b", "w")
		generation := b.propose("b", promote(1, "b", 1)).Resource.Generation
		b.rejoin("a")
		sameStates(t, b, []string{"a", "b", "w"})
		if r := b.nodes["a"].State().Resources["r"]; r.Primary != "b" || r.Generation != generation {
			t.Errorf("record %+v", r)
		}
	})
}

// hangingStore blocks writes while hung is open.
type hangingStore struct {
	*raft.InmemStore
	hang chan struct{} // nil: works; else writes wait until it is closed
}

func (s *hangingStore) wait() {
	if s.hang != nil {
		<-s.hang
	}
}

func (s *hangingStore) StoreLogs(logs []*raft.Log) error {
	s.wait()
	return s.InmemStore.StoreLogs(logs)
}

func (s *hangingStore) SetUint64(key []byte, value uint64) error {
	s.wait()
	return s.InmemStore.SetUint64(key, value)
}

func TestLeaderWithHungDiskStepsDown(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		store := &hangingStore{InmemStore: raft.NewInmemStore()}
		b.disks["a"] = &Storage{Log: store, Stable: store, Snapshots: raft.NewInmemSnapshotStore()}
		b.tune = func(c *Config) { c.Timing.Store = 300 * time.Millisecond }
		b.form()
		b.propose("a", pairResource())
		b.makeLeader("a")
		synctest.Wait()
		store.hang = make(chan struct{})
		before := time.Now()
		if _, err := b.nodes["a"].Propose(t.Context(), promote(1, "a", 1)); !errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("the proposal ended with %v", err)
		}
		b.leader("b", "w")
		if took := time.Since(before); took > 2*time.Second {
			t.Errorf("it took %s until another leader was there", took)
		}
		select {
		case <-b.nodes["a"].Failed():
		default:
			t.Error("the node does not report that its store failed")
		}
		// The node without a vote still gets its commands committed, and acts on the results.
		if r := b.propose("a", promote(1, "b", 1)).Resource; r.Primary != "b" {
			t.Errorf("record %+v", r)
		}
		if s := b.nodes["a"].Status(); s.State != "failed" || !strings.Contains(s.StoreError, "took more than") {
			t.Errorf("status %+v", s)
		}
		<-b.nodes["a"].stopped // Raft has ended, so nobody can take it for a voter
		close(store.hang)
	})
}

// A follower's disk hangs while it stores its term: the library would take the whole process down.
func TestFollowerWithHungDiskDoesNotPanic(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		store := &hangingStore{InmemStore: raft.NewInmemStore()}
		b.disks["b"] = &Storage{Log: store, Stable: store, Snapshots: raft.NewInmemSnapshotStore()}
		b.tune = func(c *Config) { c.Timing.Store = 300 * time.Millisecond }
		b.form()
		b.makeLeader("a")
		synctest.Wait()
		store.hang = make(chan struct{})
		b.do("transfer", func(ctx context.Context) error { return b.nodes["w"].TransferLeadership(ctx, "w") })
		b.leader("a", "w")
		<-b.nodes["b"].Failed()
		b.propose("b", pairResource())
		close(store.hang)
	})
}

func TestNodeComesBackAtAnotherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, false)
		defer b.stopAll()
		b.form()
		b.makeLeader("a")
		b.stop("b")
		b.tune = func(c *Config) {
			c.Advertise = "b-moved"
			c.Accept = func(ch Channel) net.Listener { return b.net.listen("b-moved", ch) }
		}
		b.start("b")
		b.register("b")
		for {
			v, found := b.nodes["a"].server("b")
			if found && v.Address == "b-moved" {
				break
			}
			select {
			case <-b.nodes["a"].Changed():
			case <-time.After(100 * time.Millisecond):
			}
		}
		b.barrier("b")
		b.isolate("w")
		b.propose("b", pairResource()) // a and b alone are a majority again
	})
}

// A directory restored from a backup brings back an old incarnation, and with it a forgotten vote.
func TestRestoredDirectoryIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, false)
		defer b.stopAll()
		b.form()
		for range 3 {
			b.stop("b")
			b.start("b")
			b.register("b")
		}
		b.makeLeader("a")
		sameStates(t, b, []string{"a", "b", "w"})
		b.stop("b")
		b.disks["b"], b.incs["b"] = nil, 1
		b.start("b")
		if _, err := b.nodes["b"].Register(t.Context(), ""); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "restored") {
			t.Errorf("it registered: %v", err)
		}
		time.Sleep(5 * time.Second) // virtual: long enough for the leader to try again and again
		if s := b.nodes["b"].Status(); s.LastIndex != 0 || s.Term != 0 {
			t.Errorf("it takes part in the vote: %+v", s)
		}
		for _, v := range b.nodes["a"].Status().Voters {
			if v.Node == "b" && v.Reach != ReachNo {
				t.Errorf("the leader's status says %+v", v)
			}
		}
		// With a token it becomes a new node of the same name.
		b.stop("b")
		b.incs["b"] = 0
		b.join("b")
		sameStates(t, b, []string{"a", "b", "w"})
	})
}

func TestRestartReplaysNothingBeyondTheRecord(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.tune = func(c *Config) {
			c.Timing.SnapshotThreshold, c.Timing.TrailingLogs, c.Timing.SnapshotInterval = 8, 4, time.Second
		}
		b.form()
		generation := b.propose("a", pairResource()).Resource.Generation
		generation = b.propose("a", promote(generation, "a", 1)).Resource.Generation
		for range 30 {
			generation = b.propose("a", remove(generation, "b")).Resource.Generation
		}
		time.Sleep(5 * time.Second) // virtual: snapshots are taken
		for _, name := range []string{"a", "b", "w"} {
			b.stop(name)
		}
		for _, name := range []string{"a", "b", "w"} {
			b.start(name)
		}
		for _, name := range []string{"a", "b", "w"} {
			b.register(name)
		}
		sameStates(t, b, []string{"a", "b", "w"})
		r := b.nodes["w"].State().Resources["r"]
		if r.Generation != generation || r.Primary != "a" || r.PrimaryIncarnation != 1 {
			t.Errorf("record %+v", r)
		}
		if got := b.nodes["w"].State().Nodes["a"].Incarnation; got != 2 {
			t.Errorf("a is registered as incarnation %d", got)
		}
		if b.propose("a", promote(generation, "a", 2)).Resource.PrimaryIncarnation != 2 {
			t.Error("a did not take its role again")
		}
	})
}

func TestNoChangeIsMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, true)
		defer b.stopAll()
		b.form()
		b.propose("a", pairResource())
		generation := b.propose("a", promote(1, "a", 1)).Resource.Generation
		const last = 40
		seen := make(chan uint64)
		go func() {
			defer close(seen)
			for {
				changed := b.nodes["b"].Changed()
				r := b.nodes["b"].State().Resources["r"]
				if r != nil && r.Generation >= last {
					seen <- r.Generation
					return
				}
				<-changed
			}
		}()
		for generation < last {
			generation = b.propose("a", remove(generation, "b")).Resource.Generation
		}
		if got := <-seen; got != last {
			t.Errorf("saw generation %d", got)
		}
	})
}

func TestMembership(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.form()
		ctx := t.Context()
		if err := b.nodes["b"].AddVoter(ctx, "stranger", "stranger"); !errors.Is(err, ErrRefused) {
			t.Errorf("a stranger got a vote: %v", err)
		}
		if err := b.nodes["b"].TransferLeadership(ctx, "stranger"); !errors.Is(err, ErrRefused) {
			t.Errorf("a stranger got leadership: %v", err)
		}
		b.do("remove w", func(ctx context.Context) error { return b.nodes["b"].RemoveVoter(ctx, "w") })
		if got := len(b.nodes["b"].Status().Voters); got != 2 {
			t.Errorf("%d voters", got)
		}
		b.do("remove w again", func(ctx context.Context) error { return b.nodes["a"].RemoveVoter(ctx, "w") })
		b.propose("w", pairResource()) // it has no vote, and can still ask
		b.do("admit w", b.nodes["w"].Admit)
		sameStates(t, b, []string{"a", "b", "w"})
		for _, v := range b.nodes[b.leader("a", "b", "w")].Status().Voters {
			if !v.Votes || v.Reach != ReachYes {
				t.Errorf("voter %+v", v)
			}
		}
	})
}

// A node that joins again under its old name has forgotten its votes: its old right to vote goes before it gets a new one.
func TestJoiningAgainCostsTheVote(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.form()
		b.makeLeader("a")
		b.stop("b")
		b.propose("a", AddToken{ID: "again", Expires: now + 60, Now: now})
		b.propose("a", JoinNode{Token: "again", Now: now, Node: "b", Address: "b", Kind: Data})
		b.do("admission, first step", func(ctx context.Context) error {
			_, err := b.nodes["a"].call(ctx, request{Op: opAddNonvoter, Node: "b", Address: "b"})
			return err
		})
		if v, found := b.nodes["a"].server("b"); !found || v.Suffrage != raft.Nonvoter {
			t.Errorf("b is %+v (%v)", v, found)
		}
	})
}

func TestAwaitWaitsForTheIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFSM(&broadcast{})
		f.publish(newState(), 4)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.await(ctx, 4); err != nil {
			t.Errorf("an index that is there: %v", err)
		}
		if err := f.await(ctx, 5); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an index that is not: %v", err)
		}
		done := make(chan error)
		go func() { done <- f.await(t.Context(), 6) }()
		synctest.Wait()
		f.publish(newState(), 6)
		if err := <-done; err != nil {
			t.Errorf("an index that came: %v", err)
		}
	})
}

func TestBootstrapRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, true)
		defer b.stopAll()
		n := b.start("a")
		for range 2 {
			b.do("bootstrap", func(ctx context.Context) error { return n.Bootstrap(ctx, "test") })
		}
		if err := n.Bootstrap(t.Context(), "another"); !errors.Is(err, ErrRefused) {
			t.Errorf("bootstrapped twice: %v", err)
		}
		if err := n.RemoveVoter(t.Context(), "a"); !errors.Is(err, ErrRefused) {
			t.Errorf("removed the last voter: %v", err)
		}
	})
}

func TestClosedNodeRefusesCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, true)
		n := b.start("a")
		blocked := make(chan error)
		go func() { blocked <- n.Barrier(context.Background()) }() // there is no leader: it waits
		synctest.Wait()
		b.stop("a")
		if err := <-blocked; !errors.Is(err, ErrClosed) {
			t.Errorf("a call under way ended with %v", err)
		}
		if err := n.Close(); err != nil {
			t.Errorf("the second close: %v", err)
		}
		if _, err := n.Propose(t.Context(), mark{}); !errors.Is(err, ErrClosed) {
			t.Errorf("a call after close ended with %v", err)
		}
	})
}
