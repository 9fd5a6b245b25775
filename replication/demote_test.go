package replication

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"duet/bitmap"
)

// A demotion that comes while a promotion is under way is the last word: it is answered when the role was given up, and
// the promotion doesn't take it again.
func TestDemotionOutlastsPromotion(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	a := c.nodes["a"].resource
	asked, goOn := make(chan struct{}, 8), make(chan struct{})
	c.arbiter.before = func(p Proposal) {
		if p.Kind == ProposePromote {
			asked <- struct{}{}
			<-goOn
		}
	}
	promoted, demoted := make(chan error, 1), make(chan error, 1)
	go func() { promoted <- a.Promote(t.Context()) }()
	<-asked
	go func() { demoted <- a.Demote(t.Context()) }()
	c.wait("the demotion to be known", func() bool {
		known := make(chan uint64, 1)
		return a.call(t.Context(), func() { known <- a.demotions }) == nil && <-known == 1
	})
	select {
	case err := <-demoted:
		close(goOn)
		t.Fatalf("the demotion ended before the promotion: %v", err)
	default:
	}
	close(goOn)
	if err := <-demoted; err != nil {
		t.Error(err)
	}
	if conf := c.arbiter.record(); conf.Primary != "" || conf.Generation < 3 {
		t.Errorf("the record is %+v", conf)
	}
	c.endsWith(promoted, asked)
}

// A role that was granted and given up again is not asked for a second time by the same call.
func TestPromotionIsAskedForOnce(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	a := c.nodes["a"].resource
	asked := make(chan struct{}, 8)
	c.arbiter.before = func(p Proposal) {
		if p.Kind == ProposePromote {
			asked <- struct{}{}
		}
	}
	promoted := make(chan error, 1)
	go func() { promoted <- a.Promote(t.Context()) }()
	<-asked
	c.wait("a to serve", a.Serving)
	if err := a.Demote(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.endsWith(promoted, asked)
	if conf := c.arbiter.record(); conf.Primary != "" || conf.Generation < 3 {
		t.Errorf("the record is %+v", conf)
	}
}

// endsWith wants a promotion to end without asking again.
func (c *testCluster) endsWith(promoted <-chan error, asked <-chan struct{}) {
	c.t.Helper()
	select {
	case err := <-promoted:
		if err != nil && !errors.Is(err, ErrRefused) {
			c.t.Error(err)
		}
	case <-asked:
		c.t.Error("the role is asked for again")
	}
}

// record is what is committed.
func (a *recordArbiter) record() Configuration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conf
}

// A demotion says that everything is on the disks of the in-sync set. Two Primaries have no transfer log that would tell:
// one without a disk, and one that got everything as a Secondary.
func TestDemotionFlushes(t *testing.T) {
	for name, prepare := range map[string]func(c *testCluster, watch func()) (primary string){
		"without a disk": func(c *testCluster, watch func()) string {
			c.promote("a")
			c.nodes["a"].disk.failing("write", syscall.EIO)
			c.write("a", 8192, randomBytes(4096))
			c.wait("a leaves the set", func() bool { return c.inSync() == "[b]" })
			if err := c.tryFlush("a"); err != nil {
				t.Fatal(err)
			}
			watch()
			c.write("a", 16384, randomBytes(4096))
			return "a"
		},
		"was Secondary": func(c *testCluster, watch func()) string {
			c.promote("a")
			c.write("a", 8192, randomBytes(4096))
			c.crash("a")
			watch()
			c.wait("b takes over", func() bool { return c.nodes["b"].resource.Promote(t.Context()) == nil })
			return "b"
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			var flushed atomic.Bool
			primary := prepare(c, func() {
				fault := func(operation string) error {
					if operation == "sync" {
						flushed.Store(true)
					}
					return nil
				}
				c.nodes["b"].disk.fault.Store(&fault)
			})
			if err := c.nodes[primary].resource.Demote(t.Context()); err != nil {
				t.Fatal(err)
			}
			if conf := c.arbiter.record(); !conf.Clean || !flushed.Load() {
				t.Errorf("clean %v, flushed %v", conf.Clean, flushed.Load())
			}
		})
	}
}

// Nobody can say so of the only disk when it has failed.
func TestDemotionWithAFailedDiskIsNotClean(t *testing.T) {
	c := newTestCluster(t, "a")
	c.promote("a")
	c.write("a", 8192, randomBytes(4096))
	c.nodes["a"].disk.failing("sync", syscall.EIO)
	if err := c.tryFlush("a"); err == nil {
		t.Fatal("the flush succeeds")
	}
	if err := c.nodes["a"].resource.Demote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if conf := c.arbiter.record(); conf.Clean || conf.Primary != "" {
		t.Errorf("the record is %+v", conf)
	}
}

// A read waits for the range of a write that waits for the gate: neither has begun, and the role is given up without them.
func TestDemotionBesideAReadBehindAWrite(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 5)
	c.converged("a")
	meta := c.nodes["a"].meta
	reached, until := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(until) })
	t.Cleanup(release)
	var first atomic.Bool
	fault := func(what string) error {
		if what == "write" && first.CompareAndSwap(false, true) {
			close(reached)
			<-until
		}
		return nil
	}
	meta.fault.Store(&fault)
	v := c.nodes["a"].resource.Volume()
	write, read := make(waitCompletion, 1), make(waitCompletion, 1)
	off := uint64(0)
	for v.local.store.TryAcquire(uint32(off/bitmap.ExtentBytes), uint32(off/bitmap.ExtentBytes)) { // a cold extent
		v.local.store.Release(uint32(off/bitmap.ExtentBytes), uint32(off/bitmap.ExtentBytes))
		off += bitmap.ExtentBytes
	}
	v.Write(randomBytes(4096), off, false, nil, write)
	<-reached
	v.Read(make([]byte, 4096), off, nil, read)
	demoted := make(chan error, 1)
	go func() { demoted <- c.nodes["a"].resource.Demote(t.Context()) }()
	c.wait("the gate is closed", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.gate != gateOpen
	})
	release()
	select {
	case err := <-demoted:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the role is never given up")
	}
	for what, done := range map[string]waitCompletion{"the write": write, "the read": read} {
		if err := c.answer(what, done); err == nil {
			t.Errorf("%s was answered without the role", what)
		}
	}
}
