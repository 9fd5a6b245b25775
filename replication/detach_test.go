package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"duet/bitmap"
)

// reattach attaches the disk of a node again.
func (c *testCluster) reattach(name string) error {
	n := c.nodes[name]
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	return n.resource.AttachDisk(ctx, func() (Disk, MetadataFile, error) { return n.disk, n.meta, nil })
}

func (c *testCluster) detach(name string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	if err := c.nodes[name].resource.Detach(ctx); err != nil {
		c.t.Fatal(err)
	}
}

// keepWriting writes until stop is called, which returns when the last write has completed.
func (c *testCluster) keepWriting(name string) (stop func()) {
	ended := make(chan struct{})
	var writers sync.WaitGroup
	for i := range uint64(3) {
		writers.Go(func() {
			for round := uint64(0); ; round++ {
				select {
				case <-ended:
					return
				default:
				}
				off := (i*64 + round%64) * bitmap.BlockBytes
				want := randomBytes(bitmap.BlockBytes)
				got := make([]byte, len(want))
				if err := c.tryWrite(name, off, want); err != nil {
					c.t.Errorf("write: %v", err)
					return
				}
				if err := c.tryRead(name, off, got); err != nil || string(got) != string(want) {
					c.t.Errorf("read after write: other data, or %v", err)
					return
				}
			}
		})
	}
	return func() { close(ended); writers.Wait() }
}

// A disk is detached and attached again while the application writes: it notices nothing, and what is copied is what changed.
func TestDetachAndAttach(t *testing.T) {
	for _, node := range []string{"a", "b"} {
		for _, load := range []bool{false, true} {
			name := "Primary"
			if node == "b" {
				name = "Secondary"
			}
			if load {
				name += " under load"
			}
			t.Run(name, func(t *testing.T) {
				c := newTestCluster(t, "a", "b")
				c.promote("a")
				c.writeSome("a", 50)
				c.flush("a")
				stop := func() {}
				if load {
					stop = c.keepWriting("a")
				}
				c.detach(node)
				if state := c.diskState(node); state != "Diskless" {
					t.Errorf("the detached disk is %s", state)
				}
				if got := c.inSync(); strings.Contains(got, node) {
					c.wait("it leaves the set", func() bool { return !strings.Contains(c.inSync(), node) })
				}
				for i := range uint64(10) {
					c.write("a", (1000+i)*bitmap.BlockBytes, randomBytes(bitmap.BlockBytes))
				}
				before := c.nodes[node].disk.bytes.Load()
				if err := c.reattach(node); err != nil {
					t.Fatal(err)
				}
				c.wait("in sync again", c.allInSync)
				copied := c.nodes[node].disk.bytes.Load() - before
				stop()
				c.flush("a")
				c.equal()
				if !load && copied != 10*bitmap.BlockBytes {
					t.Errorf("%d bytes were copied, ten blocks changed", copied)
				}
				c.crash("a") // what is on disk says the same
				c.wait("b takes over", func() bool { return c.nodes["b"].resource.Promote(t.Context()) == nil })
				c.start("a")
				c.writeSome("b", 5)
				c.wait("in sync once more", c.allInSync)
				c.equal()
			})
		}
	}
}

// A failed disk of the Primary comes back while the Primary serves, by a full resync.
func TestFailedDiskIsAttachedAgain(t *testing.T) {
	for _, operation := range []string{"write", "sync", "read"} {
		t.Run(operation, func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.writeSome("a", 20)
			stop := c.keepWriting("a")
			c.nodes["a"].disk.failing(operation, errDetached)
			c.flush("a")
			if err := c.tryRead("a", 0, make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
			c.wait("a leaves the set", func() bool { return c.inSync() == "[b]" })
			c.nodes["a"].disk.fault.Store(nil)
			if err := c.reattach("a"); err != nil {
				t.Fatal(err)
			}
			c.wait("in sync again", c.allInSync)
			stop()
			c.flush("a")
			c.equal()
		})
	}
}

// What was issued to a disk has to return before it is used again.
func TestAttachWaitsForWhatIsStuck(t *testing.T) {
	c := newStuckCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 5)
	reached, release := stuckDisk(t, c.nodes["a"].disk, "write")
	go func() {
		if err := c.tryWrite("a", 8192, randomBytes(2*inlineBytes)); err != nil {
			t.Error(err)
		}
	}()
	<-reached
	c.wait("a leaves the set", func() bool { return c.inSync() == "[b]" })
	n := c.nodes["a"]
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := n.resource.AttachDisk(ctx, func() (Disk, MetadataFile, error) { return n.disk, n.meta, nil })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "has not returned") {
		t.Fatalf("attached, or %v", err)
	}
	if reason := n.resource.Status().Reason; !strings.Contains(reason, "on the former disk has not returned") {
		t.Errorf("the reason is %q", reason)
	}
	stop := c.keepWriting("a")
	release()
	if err := c.reattach("a"); err != nil {
		t.Fatal(err)
	}
	c.wait("in sync again", c.allInSync)
	stop()
	c.flush("a")
	c.equal()
}

// The last replica in sync keeps its disk; what is not there can't be detached, nor what is there be attached.
func TestDetachIsRefused(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.write("a", 0, randomBytes(4096))
	if err := c.reattach("a"); !errors.Is(err, ErrRefused) {
		t.Errorf("attached twice: %v", err)
	}
	c.detach("b")
	c.wait("b leaves the set", func() bool { return c.inSync() == "[a]" })
	if err := c.nodes["b"].resource.Detach(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("detached twice: %v", err)
	}
	if err := c.nodes["a"].resource.Detach(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("the last one was detached: %v", err)
	}
	c.writeSome("a", 5)
	if err := c.reattach("b"); err != nil {
		t.Fatal(err)
	}
	c.wait("in sync again", c.allInSync)
	c.equal()
}

// The disk of a Primary fails again while it is brought up to date, and the peer is lost: what was acknowledged is there in
// the end.
func TestPullIsInterrupted(t *testing.T) {
	for name, interrupt := range map[string]func(c *testCluster){
		"disk fails": func(c *testCluster) {
			c.nodes["a"].disk.failing("sync", errDetached)
			c.flush("a")
			c.wait("a gives it up", func() bool { return c.diskState("a") == "Failed" })
			c.nodes["a"].disk.fault.Store(nil)
			if err := c.reattach("a"); err != nil {
				c.t.Fatal(err)
			}
		},
		"Primary crashes": func(c *testCluster) {
			c.crash("a")
			c.start("a")
			c.wait("b takes over", func() bool { return c.nodes["b"].resource.Promote(c.t.Context()) == nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.writeSome("a", 100)
			c.detach("a")
			c.writeSome("a", 100)
			paused := true
			c.change("a", ResyncChange{Paused: &paused})
			if err := c.reattach("a"); err != nil {
				t.Fatal(err)
			}
			c.wait("the pull is under way", func() bool { return c.nodes["a"].resource.Status().Resync != nil })
			c.writeSome("a", 10)
			interrupt(c)
			paused = false
			c.change("a", ResyncChange{Paused: &paused})
			c.wait("in sync again", c.allInSync)
			c.equal()
		})
	}
}

// A Primary without a disk loses the connection with the only replica in sync, again and again: requests wait until it is
// back, and then go on, whether or not they had reached it.
func TestDisklessPrimaryLosesItsPeer(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.writeSome("a", 10)
			c.detach("a")
			stop := c.keepWriting("a")
			flushed := make(chan error, 1)
			for range 5 {
				v := c.nodes["a"].resource.Volume()
				done := make(waitCompletion, 1)
				v.Flush(nil, done)
				if restart {
					c.crash("b")
					c.start("b")
				} else if s := c.session("a", "b"); s != nil {
					s.fail(errSessionReplaced)
				}
				go func() { flushed <- <-done }()
				select {
				case err := <-flushed:
					if err != nil {
						t.Fatal(err)
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("the flush hangs: %s", v.Left())
				}
				c.wait("connected again", func() bool { return c.session("a", "b") != nil })
			}
			c.wait("it serves", func() bool { return !c.nodes["a"].resource.Status().Suspended })
			if err := c.reattach("a"); err != nil {
				t.Fatal(err)
			}
			c.wait("in sync again", c.allInSync)
			stop()
			c.flush("a")
			c.equal()
		})
	}
}

// The machine of the only replica in sync restarts under a Primary that has no disk: neither can go on, and the role is
// given up for the one that has the data.
func TestDisklessPrimaryGivesUpForARestartedPeer(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 10)
	c.detach("a")
	c.crash("b")
	waiting := make(waitCompletion, 1)
	c.nodes["a"].resource.Volume().Write(randomBytes(bitmap.BlockBytes), 0, false, nil, waiting)
	c.arbiter.mu.Lock()
	c.arbiter.conf.Generation++
	c.arbiter.conf.Replicas = append([]Replica(nil), c.arbiter.conf.Replicas...)
	c.arbiter.conf.replica("b").AdmittedBoot = "before"
	c.arbiter.learn(c.arbiter.conf)
	c.arbiter.mu.Unlock()
	c.start("b")
	c.wait("a gives the role up", func() bool { conf := c.committed(); return conf.Primary == "" && !conf.Clean })
	if err := <-waiting; err == nil {
		t.Fatal("a write was acknowledged that no Primary has")
	}
	c.wait("b takes over", func() bool { return c.nodes["b"].resource.Promote(t.Context()) == nil })
	if err := c.reattach("a"); err != nil {
		t.Fatal(err)
	}
	c.wait("all in sync", c.allInSync)
	c.equal()
}

// A disk that failed is closed, for another attempt with it, while a write to it is still under way: that write goes on
// without it, on the Primary and on a Secondary.
func TestDiskIsClosedUnderAWrite(t *testing.T) {
	for _, failing := range []string{"a", "b"} {
		t.Run(failing, func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.writeSome("a", 10)
			disk := c.nodes[failing].disk
			reached, until := make(chan struct{}), make(chan struct{})
			release := sync.OnceFunc(func() { disk.fault.Store(nil); close(until) })
			t.Cleanup(release)
			var begun atomic.Bool
			fault := func(what string) error {
				switch {
				case what != "write":
					return nil
				case begun.CompareAndSwap(false, true):
					close(reached)
					<-until
					return nil
				}
				return syscall.EIO
			}
			disk.fault.Store(&fault)
			first, second := make(waitCompletion, 1), make(waitCompletion, 1)
			v := c.nodes["a"].resource.Volume()
			v.Write(randomBytes(2*inlineBytes), 0, false, nil, first) // on a worker, which stays there
			<-reached
			v.Write(randomBytes(2*inlineBytes), 1<<20, false, nil, second)
			c.wait("the disk failed", func() bool { return c.diskState(failing) == "Failed" })
			attached := make(chan error, 1)
			go func() { attached <- c.reattach(failing) }()
			for _, done := range []waitCompletion{first, second} {
				select {
				case err := <-done:
					if err != nil {
						t.Error(err)
					}
				case <-time.After(15 * time.Second):
					t.Fatal("a write is never answered")
				}
			}
			release()
			if err := <-attached; err != nil {
				c.wait("attached", func() bool { return c.reattach(failing) == nil })
			}
			c.wait("all in sync", c.allInSync)
			c.flush("a")
			c.equal()
		})
	}
}

// copied is what the disk holds.
func (d *memoryDisk) copied() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.p)
}

// A Primary brings its own disk up to date while a third replica is away, and dies at the moment when it is admitted, before
// it knows: what it copied is known to be lacking there.
func TestPulledBlocksAreMarked(t *testing.T) {
	c := newTestCluster(t, "a", "b", "c")
	c.promote("a")
	c.writeSome("a", 10)
	c.flush("a")
	c.crash("c")
	c.wait("c leaves", func() bool { return c.inSync() == "[a b]" })
	c.detach("a")
	c.write("a", 40*bitmap.BlockBytes, randomBytes(20*bitmap.BlockBytes))
	c.flush("a")
	a := c.nodes["a"]
	var disk, meta []byte // as of the admission
	c.arbiter.mu.Lock()
	learn := c.arbiter.learn
	c.arbiter.learn = func(conf Configuration) {
		if disk == nil && conf.inSync("a") {
			disk, meta = a.disk.copied(), a.meta.copied()
		}
		learn(conf)
	}
	c.arbiter.mu.Unlock()
	if err := c.reattach("a"); err != nil {
		t.Fatal(err)
	}
	c.wait("a in sync again", func() bool { conf := c.committed(); return conf.inSync("a") })
	c.crash("a")
	c.crash("b")
	a.disk.p, a.meta.p = disk, meta
	c.start("a")
	c.wait("a is promoted", func() bool { return c.nodes["a"].resource.Promote(t.Context()) == nil })
	c.start("c")
	c.wait("c in sync", func() bool { conf := c.committed(); return conf.inSync("c") })
	c.flush("a")
	if !bytes.Equal(c.nodes["a"].disk.p, c.nodes["c"].disk.p) {
		t.Fatal("c lacks what a had copied")
	}
}

// A replica is promoted, alone in the set, while its disk is being detached: nothing was served without the disk, so it is as
// good as it was.
func TestDetachedDiskOfTheOnlyMember(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 10)
	c.flush("a")
	c.crash("a")
	c.detach("b")
	c.arbiter.mu.Lock()
	conf := c.arbiter.conf
	b := c.nodes["b"]
	conf.Generation++
	conf.Primary, conf.PrimaryIncarnation, conf.PrimarySince, conf.InSync = "b", b.incarnation, conf.Generation, []string{"b"}
	conf.Replicas = append([]Replica(nil), conf.Replicas...)
	conf.replica("a").LeftAt = conf.Generation
	c.arbiter.conf = conf
	c.arbiter.mu.Unlock()
	b.resource.Learn(conf)
	c.wait("b is Primary", func() bool { return b.resource.Serving() })
	c.start("a")
	c.wait("b has nothing to copy from", func() bool {
		peers := b.resource.Status().Peers
		return len(peers) == 1 && strings.Contains(peers[0].Reason, "no in-sync disk")
	})
	if err := c.reattach("b"); err != nil {
		t.Fatal(err)
	}
	c.wait("b serves", func() bool { return c.diskState("b") == "UpToDate" })
	c.writeSome("b", 10)
	c.wait("all in sync", c.allInSync)
	c.flush("b")
	c.equal()
}
