package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"duet/bitmap"
)

// corrupt changes what is on a disk behind duet's back.
func (c *testCluster) corrupt(name string, off, n int) {
	disk := c.nodes[name].disk
	disk.mu.Lock()
	defer disk.mu.Unlock()
	for i := off; i < off+n; i++ {
		disk.p[i] ^= 0xff
	}
}

// session is the one that a node has with a peer at the moment.
func (c *testCluster) session(name, peer string) *session {
	c.t.Helper()
	var s *session
	r := c.nodes[name].resource
	if err := r.call(c.t.Context(), func() { s = r.links[peer].session }); err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *testCluster) beginVerify(name string, options VerifyOptions) {
	c.t.Helper()
	c.wait("requests to be served", func() bool { return !c.nodes[name].resource.Status().Suspended })
	if _, err := c.nodes[name].resource.Verify(c.t.Context(), options); err != nil {
		c.t.Fatal(err)
	}
}

// endVerify waits for the end of the verification and returns its result.
func (c *testCluster) endVerify(name string) VerifyStatus {
	c.t.Helper()
	var st VerifyStatus
	c.wait("the end of the verify", func() bool {
		st = c.nodes[name].resource.VerifyStatus()
		return st.State != VerifyRunning && st.State != VerifyRepairing
	})
	return st
}

func (c *testCluster) verify(name string, options VerifyOptions) VerifyStatus {
	c.t.Helper()
	c.beginVerify(name, options)
	return c.endVerify(name)
}

// clean verifies and wants no difference.
func (c *testCluster) clean(name string) {
	c.t.Helper()
	st := c.verify(name, VerifyOptions{})
	if st.State != VerifyDone || st.DoneBytes != testDeviceBytes || len(st.Peers) != len(c.nodes)-1 {
		c.t.Fatalf("verify: %+v", st)
	}
	for _, p := range st.Peers {
		if p.DifferentBytes != 0 || len(p.Ranges) != 0 {
			c.t.Fatalf("%s differs: %+v", p.Node, p)
		}
	}
}

func TestVerifyFindsAndRepairsWhatDiffers(t *testing.T) {
	for _, holes := range []bool{false, true} {
		t.Run(fmt.Sprintf("holes %v", holes), func(t *testing.T) {
			c := newTestCluster(t, "a", "b", "c")
			for _, n := range c.nodes {
				n.disk.holes.Store(holes)
			}
			c.promote("a")
			c.writeSome("a", 20)
			c.clean("a")

			c.corrupt("b", 5*4096+17, 1)
			c.corrupt("b", 1<<20-8192, 12288) // over the border of two ranges
			c.corrupt("b", testDeviceBytes-1, 1)
			c.corrupt("c", 20<<20, 1)
			want := [][]ByteRange{
				{{5 * 4096, 4096}, {1<<20 - 8192, 12288}, {testDeviceBytes - 4096, 4096}},
				{{20 << 20, 4096}},
			}
			st := c.verify("a", VerifyOptions{})
			for i, p := range st.Peers {
				if !slices.Equal(p.Ranges, want[i]) || !p.Exact || p.MoreRanges != 0 || p.Repaired {
					t.Errorf("%s: %+v, want %v", p.Node, p, want[i])
				}
			}
			if st.State != VerifyDone || st.Peers[0].DifferentBytes != 20480 || !c.allInSync() {
				t.Fatalf("%+v", st)
			}

			c.repairs("a", "b", "c")
			c.clean("a")
			c.writeSome("a", 5)
			c.equal()
		})
	}
}

// repairs verifies with repair and checks the order of the steps: a peer is durably Inconsistent before its removal is
// committed, and added again after that.
func (c *testCluster) repairs(primary string, peers ...string) {
	c.t.Helper()
	learn := c.arbiter.learn
	var mu sync.Mutex
	removed := map[string]bool{}
	c.arbiter.mu.Lock()
	c.arbiter.learn = func(conf Configuration) {
		mu.Lock()
		defer mu.Unlock()
		for _, peer := range peers {
			if !conf.inSync(peer) && !removed[peer] {
				removed[peer] = true
				if sb := c.nodes[peer].resource.superblock(); !sb.Inconsistent {
					c.t.Errorf("%s is removed and does not know that it is Inconsistent", peer)
				}
			}
		}
		learn(conf)
	}
	c.arbiter.mu.Unlock()
	st := c.verify(primary, VerifyOptions{Repair: true})
	for _, p := range st.Peers {
		if want := slices.Contains(peers, p.Node); p.Repaired != want || st.State != VerifyDone {
			c.t.Fatalf("repaired %v, want %v: %+v", p.Repaired, want, st)
		}
	}
	c.wait("all in sync again", c.allInSync)
	mu.Lock()
	defer mu.Unlock()
	if len(removed) != len(peers) {
		c.t.Errorf("removed were %v, want %v", removed, peers)
	}
	c.equal()
}

// Verifies under overlapping writes, trims and flushes report nothing: whatever they read was the same version.
func TestVerifyUnderLoadFindsNothing(t *testing.T) {
	c := newTestCluster(t, "a", "b", "c")
	c.promote("a")
	stop := make(chan struct{})
	var writers sync.WaitGroup
	var writes atomic.Int64
	for i := range 8 {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 7))
			p := randomBytes(1 << 20)
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := uint64(1+random.IntN(64)) * bitmap.BlockBytes
				off := uint64(random.IntN((4<<20)/bitmap.BlockBytes)) * bitmap.BlockBytes // all in the same few ranges
				var err error
				switch random.IntN(20) {
				case 0:
					err = c.try("a", func(v *Volume, done waitCompletion) { v.Trim(off, n, false, nil, done) })
				case 1:
					err = c.tryFlush("a")
				default:
					at := random.IntN(len(p) - int(n))
					err = c.tryWrite("a", off, p[at:at+int(n)])
				}
				if err != nil {
					t.Error(err)
					return
				}
				writes.Add(1)
			}
		})
	}
	for range 6 {
		before := writes.Load()
		c.wait("writes to go on", func() bool { return writes.Load() > before+20 })
		c.clean("a")
	}
	close(stop)
	writers.Wait()
	c.equal()
}

// tap tells see of every frame from now on.
func (c *testCluster) tap(see func(h Header) (cut bool)) {
	c.wiring.show(func(f lineFrame) bool { return see(f.Header) })
}

// Wherever in a verify with repair a session is cut: it ends, with a reason or with the repair; nothing is stuck; and what
// was found is copied, if not now then by the next verify.
func TestVerifyWithASessionCut(t *testing.T) {
	for _, cut := range []FrameType{FrameVerifyRequest, FrameVerifyHashes, FrameVerifyDiffers, FrameVerifyDone, FrameVerifyMarked,
		FrameResyncStart, FrameBitmapDone, FrameResyncReady, FrameResyncRequest, FrameResyncData, FrameResyncWritten, FrameResyncDone} {
		t.Run(cut.String(), func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			var armed atomic.Bool
			c.tap(func(h Header) bool { return h.Type == cut && armed.CompareAndSwap(true, false) })
			c.promote("a")
			c.wait("in sync", c.allInSync)
			c.writeSome("a", 20)
			c.write("a", 3<<20, randomBytes(8192)) // zeroes would not travel as data
			c.flush("a")                           // else the end of the session would have it copied
			c.corrupt("b", 3<<20, 8192)
			armed.Store(true)
			st := c.verify("a", VerifyOptions{Repair: true})
			if armed.Load() {
				t.Fatalf("%s was never sent", cut)
			}
			early := cut == FrameVerifyRequest || cut == FrameVerifyHashes
			if early != (st.State == VerifyFailed) || early && !strings.Contains(st.Reason, "the session with b ended") {
				t.Fatalf("%+v", st)
			}
			c.wait("in sync again", c.allInSync)
			if early {
				c.repairs("a", "b")
			}
			c.clean("a")
			c.equal()
			c.writeSome("a", 5)
		})
	}
}

// holdReads makes reads of a disk wait. asked tells of the first; release lets all go on.
func (d *memoryDisk) holdReads() (asked <-chan struct{}, release func()) {
	first, answer := make(chan struct{}), make(chan struct{})
	var once sync.Once
	fault := func(operation string) error {
		if operation == "read" {
			once.Do(func() { close(first) })
			<-answer
		}
		return nil
	}
	d.fault.Store(&fault)
	return first, sync.OnceFunc(func() { d.fault.Store(nil); close(answer) })
}

// Whatever takes the ground away from a verify ends it at once, with the reason, and its locks with it, even while a peer
// keeps an answer back.
func TestVerifyInterrupted(t *testing.T) {
	for _, tt := range []struct {
		name   string
		act    func(c *testCluster) error
		state  VerifyState
		reason string
	}{
		{"cancelled", func(c *testCluster) error { return c.nodes["a"].resource.CancelVerify(c.t.Context(), 1) }, VerifyCancelled, "cancelled by the operator"},
		{"disconnected", func(c *testCluster) error { return c.nodes["a"].resource.Disconnect("b") }, VerifyFailed, "the session with b ended: left in good order"},
		{"peer's session fails", func(c *testCluster) error {
			return c.nodes["b"].resource.call(c.t.Context(), func() { c.nodes["b"].resource.links["a"].session.fail(errors.New("cut")) })
		}, VerifyFailed, "the session with b ended"},
		{"disk lost", func(c *testCluster) error {
			c.nodes["a"].disk.failing("write", syscall.EIO)
			return c.tryWrite("a", 30<<20, randomBytes(4096))
		}, VerifyFailed, "the disk of a is not used any more"},
		{"no answer", func(*testCluster) error { return nil }, VerifyFailed, "b has not answered for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			if tt.name == "no answer" {
				c.crash("a")
				c.ackTimeout = 100 * time.Millisecond
				c.start("a")
			}
			c.promote("a")
			c.wait("in sync", c.allInSync)
			asked, release := c.nodes["b"].disk.holdReads()
			defer release()
			c.beginVerify("a", VerifyOptions{})
			<-asked
			if err := tt.act(c); err != nil {
				t.Fatal(err)
			}
			if st := c.endVerify("a"); st.State != tt.state || !strings.HasPrefix(st.Reason, tt.reason) {
				t.Fatalf("%+v", st)
			}
			v := c.nodes["a"].resource.volume
			c.wait("the locks to be free", func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.ranges.empty() })
			release()
			if err := c.tryWrite("a", 0, randomBytes(8192)); err != nil {
				t.Error(err)
			}
		})
	}
}

// A demotion ends a verify, and waits for nothing of it.
func TestVerifyEndsWithTheRole(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	asked, release := c.nodes["b"].disk.holdReads()
	defer release()
	c.beginVerify("a", VerifyOptions{Repair: true})
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.nodes["a"].resource.Demote(ctx); err != nil {
		t.Fatal(err)
	}
	if st := c.endVerify("a"); st.State != VerifyFailed || !strings.Contains(st.Reason, "a gives the Primary role up") {
		t.Fatalf("%+v", st)
	}
	release()
	c.promote("b")
	c.clean("b")
}

// While a range is compared the application waits for it, and for nothing else; a late answer to what was given up does no
// harm to the session.
func TestVerifyHoldsOnlyWhatItReads(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	asked, release := c.nodes["b"].disk.holdReads()
	defer release()
	c.beginVerify("a", VerifyOptions{})
	<-asked
	c.write("a", verifyWindow*MaxVerifyBytes, randomBytes(8192)) // behind the window
	done := make(waitCompletion, 1)
	c.nodes["a"].resource.Volume().Write(randomBytes(4096), 0, false, nil, done)
	select {
	case err := <-done:
		t.Fatalf("written into a range that is being compared: %v", err)
	default:
	}
	session := c.session("a", "b")
	if err := c.nodes["a"].resource.CancelVerify(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a write waits for a verify that was cancelled")
	}
	release()
	c.clean("a")
	if c.session("a", "b") != session {
		t.Error("the session did not survive")
	}
}

func TestVerifyOfAnUnreadableDisk(t *testing.T) {
	for node, reason := range map[string]string{"a": "read 1048576 bytes at", "b": "b: read 1048576 bytes at"} {
		c := newTestCluster(t, "a", "b")
		c.promote("a")
		c.nodes[node].disk.failing("read", syscall.EIO)
		if st := c.verify("a", VerifyOptions{Repair: true}); st.State != VerifyFailed || !strings.HasPrefix(st.Reason, reason) {
			t.Errorf("%s: %+v", node, st)
		}
		c.nodes[node].disk.fault.Store(nil)
		if !c.allInSync() {
			t.Errorf("%s: not in sync any more", node)
		}
		c.clean("a")
	}
}

// What is a hole on both sides costs hardly a frame; what is stored in the hole of the other is found.
func TestVerifyOfHoles(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	var requests atomic.Int64
	c.tap(func(h Header) bool {
		if h.Type == FrameVerifyRequest {
			requests.Add(1)
		}
		return false
	})
	for _, n := range c.nodes {
		n.disk.holes.Store(true)
	}
	c.promote("a")
	c.clean("a")
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests for a device without data", n)
	}
	c.corrupt("b", 9<<20+4096, 4096)
	st := c.verify("a", VerifyOptions{})
	if want := []ByteRange{{9<<20 + 4096, 4096}}; !slices.Equal(st.Peers[0].Ranges, want) {
		t.Errorf("%+v", st)
	}
	c.repairs("a", "b")
	requests.Store(0)
	c.clean("a")
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests after the repair", n)
	}
}

// From the moment that a peer is known to differ a demotion waits until it is out of the set: else it could be promoted
// with what is wrong.
func TestDemotionWaitsForTheRemovalOfWhatDiffers(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 5)
	c.flush("a")
	c.corrupt("b", 8192, 1)
	hold, held := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(goOn) // before that of the cluster
	var once sync.Once
	c.wait("the logs to be quiet", func() bool {
		v := c.nodes["b"].resource.volume
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.log.empty()
	})
	fault := func(operation string) error {
		if operation == "write" {
			once.Do(func() { close(held) })
			<-hold
		}
		return nil
	}
	c.nodes["b"].meta.fault.Store(&fault)
	c.beginVerify("a", VerifyOptions{Repair: true})
	<-held // b is about to mark what differs
	demoted := make(chan error, 1)
	go func() { demoted <- c.nodes["a"].resource.Demote(t.Context()) }()
	c.wait("the demotion to begin", func() bool {
		return strings.Contains(c.nodes["a"].resource.Status().Reason, "gives the Primary role up")
	})
	select {
	case err := <-demoted:
		t.Fatalf("demoted with %s in sync: %v", c.inSync(), err)
	default:
	}
	goOn()
	if err := <-demoted; err != nil {
		t.Fatal(err)
	}
	if got := c.inSync(); got != "[a]" {
		t.Fatalf("in sync are %s", got)
	}
	if err := c.nodes["b"].resource.Promote(t.Context()); !errors.Is(err, ErrRefused) {
		t.Fatalf("b was promoted, or %v", err)
	}
	if st := c.endVerify("a"); st.State != VerifyFailed || !strings.Contains(st.Reason, "not Primary any more") {
		t.Errorf("%+v", st)
	}
	c.promote("a")
	c.wait("in sync again", c.allInSync)
	c.clean("a")
	c.equal()
}

// Another replica that becomes Primary before the repair has ended copies what differs, too: it learns it from the marks.
func TestRepairSurvivesAChangeOfThePrimary(t *testing.T) {
	c := newTestCluster(t, "a", "b", "c")
	var armed atomic.Bool
	c.tap(func(h Header) bool { return h.Type == FrameResyncStart && armed.Load() }) // a does not get to the resync
	c.promote("a")
	c.wait("in sync", c.allInSync)
	c.writeSome("a", 10)
	c.corrupt("b", 7<<20, 4096)
	armed.Store(true)
	c.beginVerify("a", VerifyOptions{Repair: true})
	c.wait("b is removed", func() bool { return c.inSync() == "[a c]" })
	c.crash("a")
	armed.Store(false)
	c.wait("c notices", func() bool { return c.nodes["c"].resource.Status().Peers[0].ConnectionState != "Connected" })
	c.promote("c")
	c.start("a")
	c.wait("all in sync again", c.allInSync)
	c.equal()
	c.clean("c")
}

func TestVerifyRefusals(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	verify := func(name string, options VerifyOptions) error {
		_, err := c.nodes[name].resource.Verify(t.Context(), options)
		return err
	}
	if err := verify("a", VerifyOptions{}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "there is none") {
		t.Errorf("without a Primary: %v", err)
	}
	c.promote("a")
	c.wait("b knows", func() bool { return c.nodes["b"].resource.Status().Peers[0].Role == "Primary" })
	if err := verify("b", VerifyOptions{}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "which is a") {
		t.Errorf("on the Secondary: %v", err)
	}
	if err := verify("a", VerifyOptions{BytesPerSecond: MinVerifyRate - 1}); !errors.Is(err, ErrRefused) {
		t.Errorf("too slow: %v", err)
	}
	if err := c.nodes["a"].resource.CancelVerify(t.Context(), 0); !errors.Is(err, ErrRefused) {
		t.Errorf("cancel nothing: %v", err)
	}
	_, release := c.nodes["b"].disk.holdReads()
	c.beginVerify("a", VerifyOptions{})
	if err := verify("a", VerifyOptions{}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "already") {
		t.Errorf("two at once: %v", err)
	}
	if got := c.nodes["a"].resource.Status().Peers[0].ReplicationState; got != "VerifyS" {
		t.Errorf("the Primary is %s", got)
	}
	c.wait("the Secondary to be asked", func() bool { return c.nodes["b"].resource.Status().Peers[0].ReplicationState == "VerifyT" })
	release()
	c.endVerify("a")
	c.wait("both to be done", func() bool {
		return c.nodes["a"].resource.Status().Peers[0].ReplicationState == "Established" &&
			c.nodes["b"].resource.Status().Peers[0].ReplicationState == "Established"
	})
	c.crash("b")
	c.wait("b is removed", func() bool { return c.inSync() == "[a]" })
	if err := verify("a", VerifyOptions{}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "nothing to compare") {
		t.Errorf("alone: %v", err)
	}
}

// The pace is kept: 32 MiB at 64 MiB/s take half a second.
func TestVerifyKeepsThePace(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	st := c.verify("a", VerifyOptions{BytesPerSecond: 64 << 20})
	if took := st.Ended.Sub(st.Began); st.State != VerifyDone || took < 400*time.Millisecond {
		t.Errorf("%v: %+v", took, st)
	}
}

// A resync read that meets a disk given up a moment ago frees its range: an application would wait for it without end.
func TestResyncReadOfADeadDisk(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.crash("b")
	c.writeSome("a", 10)
	v := c.nodes["a"].resource.volume
	v.mu.Lock()
	v.localDead = true
	v.mu.Unlock()
	var ended atomic.Bool
	c.nodes["a"].resource.cfg.Emit = func(e Event) {
		if e.Kind == "connection" && strings.Contains(e.Reason, ErrDiskFailed.Error()) {
			ended.Store(true)
		}
	}
	c.start("b")
	c.wait("the session to end", ended.Load)
	c.wait("the locks to be free", func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.ranges.empty() })
	v.mu.Lock()
	v.localDead = false
	v.mu.Unlock()
	c.wait("in sync again", c.allInSync)
}
