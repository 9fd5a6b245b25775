package replication

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"duet/bitmap"
)

// try does one operation and returns its error.
func (c *testCluster) try(name string, operation func(v *Volume, done waitCompletion)) error {
	done := make(waitCompletion, 1)
	operation(c.nodes[name].resource.Volume(), done)
	return <-done
}

func (c *testCluster) tryWrite(name string, off uint64, p []byte) error {
	return c.try(name, func(v *Volume, done waitCompletion) { v.Write(p, off, false, nil, done) })
}

func (c *testCluster) tryFlush(name string) error {
	return c.try(name, func(v *Volume, done waitCompletion) { v.Flush(nil, done) })
}

func (c *testCluster) tryRead(name string, off uint64, p []byte) error {
	return c.try(name, func(v *Volume, done waitCompletion) { v.Read(p, off, nil, done) })
}

func (c *testCluster) inSync() string {
	c.arbiter.mu.Lock()
	defer c.arbiter.mu.Unlock()
	return fmt.Sprint(c.arbiter.conf.InSync)
}

func (c *testCluster) diskState(name string) string { return c.nodes[name].resource.Status().DiskState }

// The Primary's disk refuses an operation: the application notices nothing, the Primary goes on through its peer, and
// gets everything back when it has a disk again.
func TestPrimaryGoesOnWithoutItsDisk(t *testing.T) {
	for _, operation := range []string{"write", "sync"} {
		t.Run(operation, func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.writeSome("a", 20)
			c.nodes["a"].disk.failing(operation, syscall.EIO)
			want := randomBytes(2 * bitmap.BlockBytes)
			if err := c.tryWrite("a", 40960, want); err != nil {
				t.Fatalf("write: %v", err)
			}
			if err := c.tryFlush("a"); err != nil {
				t.Fatalf("flush: %v", err)
			}
			c.wait("a leaves the set", func() bool { return c.inSync() == "[b]" && c.diskState("a") == "Failed" })
			got := make([]byte, len(want))
			if err := c.tryRead("a", 40960, got); err != nil || string(got) != string(want) {
				t.Fatalf("read through the peer: other data, or %v", err)
			}
			c.writeSome("a", 20)
			if err := c.tryFlush("a"); err != nil {
				t.Fatalf("flush without the disk: %v", err)
			}
			c.crash("a")
			c.nodes["a"].disk.fault.Store(nil)
			c.start("a")
			c.wait("b takes over", func() bool { return c.nodes["b"].resource.Promote(t.Context()) == nil })
			c.wait("a in sync again", c.allInSync)
			c.equal()
		})
	}
}

// A Secondary whose disk refuses an operation is out before anything is acknowledged that it does not have.
func TestSecondaryDiskFails(t *testing.T) {
	for _, operation := range []string{"write", "sync"} {
		t.Run(operation, func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.writeSome("a", 20)
			c.nodes["b"].disk.failing(operation, syscall.EIO)
			for i := range 20 {
				if err := c.tryWrite("a", uint64(i)*65536, randomBytes(4096)); err != nil {
					t.Fatalf("write %d: %v", i, err)
				}
				if got := c.inSync(); operation == "write" && got != "[a]" {
					t.Fatalf("write %d was acknowledged with %s in sync", i, got)
				}
			}
			if err := c.tryFlush("a"); err != nil {
				t.Fatalf("flush: %v", err)
			}
			if got := c.inSync(); got != "[a]" {
				t.Fatalf("acknowledged with %s in sync", got)
			}
			c.wait("b says so", func() bool { return c.diskState("b") == "Failed" })
			c.crash("b")
			c.nodes["b"].disk.fault.Store(nil)
			c.start("b")
			c.wait("b in sync again", c.allInSync)
			c.equal()
		})
	}
}

// The only in-sync disk is kept: what it refuses fails for the application, and nothing later succeeds as if nothing had
// happened.
func TestOnlyDiskFails(t *testing.T) {
	c := newTestCluster(t, "a")
	c.promote("a")
	want := randomBytes(4096)
	if err := c.tryWrite("a", 8192, want); err != nil {
		t.Fatal(err)
	}
	c.nodes["a"].disk.failing("sync", syscall.EIO)
	if err := c.tryFlush("a"); !errors.Is(err, syscall.EIO) {
		t.Fatalf("the flush that failed: %v", err)
	}
	c.nodes["a"].disk.fault.Store(nil) // the kernel reports a lost write-back once
	if err := c.tryFlush("a"); !errors.Is(err, syscall.EIO) {
		t.Errorf("a flush after a failed one: %v", err)
	}
	if err := c.tryWrite("a", 0, want); !errors.Is(err, syscall.EIO) {
		t.Errorf("a write after a failed flush: %v", err)
	}
	got := make([]byte, len(want))
	if err := c.tryRead("a", 8192, got); err != nil || string(got) != string(want) {
		t.Errorf("a read after a failed flush: other data, or %v", err)
	}
	c.crash("a")
	before := c.nodes["a"].disk.bytes.Load()
	c.start("a")
	if again := c.nodes["a"].disk.bytes.Load() - before; again != bitmap.ExtentBytes {
		t.Errorf("%d bytes were written again: what the failed flush did not cover may be nowhere but in memory", again)
	}
	c.promote("a")
	if err := c.tryRead("a", 8192, got); err != nil || string(got) != string(want) {
		t.Errorf("after a restart: other data, or %v", err)
	}
	c.writeSome("a", 3)
	c.crash("a")
	before = c.nodes["a"].disk.bytes.Load()
	c.start("a")
	if again := c.nodes["a"].disk.bytes.Load() - before; again != 0 {
		t.Errorf("%d bytes were written again after an ordinary crash", again)
	}
}

// The only copy is used also if some of it can't be read, but not if it can't be written.
func TestOnlyDiskFailsAgain(t *testing.T) {
	for operation, usable := range map[string]bool{"read": true, "write": false, "sync": false} {
		t.Run(operation, func(t *testing.T) {
			c := newTestCluster(t, "a")
			c.promote("a")
			c.write("a", 8192, randomBytes(4096))
			c.nodes["a"].disk.failing("sync", syscall.EIO)
			if err := c.tryFlush("a"); !errors.Is(err, syscall.EIO) {
				t.Fatalf("the flush that failed: %v", err)
			}
			c.crash("a")
			n := c.nodes["a"]
			n.disk.failing(operation, syscall.EIO)
			r, err := Open(Config{ClusterID: "c", Node: "a", Incarnation: 9, Arbiter: c.arbiter, Dial: c.dialer()}, c.arbiter.record())
			if err != nil {
				t.Fatal(err)
			}
			err = r.Attach(n.disk, n.meta)
			if (err == nil) != usable || err != nil && !strings.Contains(err.Error(), "failed before") {
				t.Errorf("attach: %v", err)
			}
			if err == nil {
				n.resource = r // ends with the cluster
			}
		})
	}
}

// A flush that waits for its turn behind one that fails is not answered by asking the disk again: it would say that all is
// well.
func TestFlushBehindAFailedOne(t *testing.T) {
	c := newTestCluster(t, "a")
	c.promote("a")
	c.write("a", 8192, randomBytes(4096))
	asked, answer := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	c.nodes["a"].disk.fault.Store(func() *func(string) error {
		fault := func(operation string) error {
			if operation != "sync" || once.Swap(true) {
				return nil
			}
			close(asked)
			<-answer
			return syscall.EIO
		}
		return &fault
	}())
	first, second := make(waitCompletion, 1), make(waitCompletion, 1)
	v := c.nodes["a"].resource.Volume()
	v.Flush(nil, first)
	<-asked
	v.Flush(nil, second)
	close(answer)
	if err := <-first; !errors.Is(err, syscall.EIO) {
		t.Errorf("the first: %v", err)
	}
	if err := <-second; !errors.Is(err, syscall.EIO) {
		t.Errorf("the second: %v", err)
	}
}

// A read that fails on the only copy is an error for itself alone; with a second copy it is none at all.
func TestReadFails(t *testing.T) {
	t.Run("only copy", func(t *testing.T) {
		c := newTestCluster(t, "a")
		c.promote("a")
		c.writeSome("a", 5)
		c.nodes["a"].disk.failing("read", syscall.EIO)
		if err := c.tryRead("a", 0, make([]byte, 4096)); !errors.Is(err, syscall.EIO) {
			t.Fatalf("%v", err)
		}
		c.nodes["a"].disk.fault.Store(nil)
		c.writeSome("a", 5)
		c.flush("a")
	})
	t.Run("two copies", func(t *testing.T) {
		c := newTestCluster(t, "a", "b")
		c.promote("a")
		want := randomBytes(4096)
		if err := c.tryWrite("a", 8192, want); err != nil {
			t.Fatal(err)
		}
		c.nodes["a"].disk.failing("read", syscall.EIO)
		got := make([]byte, len(want))
		if err := c.tryRead("a", 8192, got); err != nil || string(got) != string(want) {
			t.Fatalf("other data, or %v", err)
		}
	})
}

// The metadata of the Primary fail: it may not act any more as if a crash could be recovered from.
func TestMetadataFail(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.write("a", 0, randomBytes(4096))
	c.nodes["a"].meta.failing("write", syscall.EIO)
	for i := range 6 { // each in a cold extent
		if err := c.tryWrite("a", uint64(i)*bitmap.ExtentBytes, randomBytes(4096)); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	c.wait("a goes on through b", func() bool { return c.inSync() == "[b]" })
}

// A superblock that can't be written ends the use of the disk also where a session writes it: else the peer would begin
// the same resync for ever.
func TestTargetSuperblockFails(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.crash("b")
	c.write("a", 0, randomBytes(4096))
	c.tweak = func(r *Resource) {
		promised := c.nodes["a"].resource.superblock().Promised
		fault := func(operation string) error {
			if operation == "write" && r.superblock().Promised >= promised {
				return syscall.EIO
			}
			return nil
		}
		c.nodes["b"].meta.fault.Store(&fault)
	}
	c.start("b")
	c.wait("b gives its disk up", func() bool { return c.diskState("b") == "Failed" })
}

// A disk that was restored together with its metadata looks as it was left then. What the others changed since is not in
// any bitmap if it was in sync in between.
func TestOlderDiskWithItsMetadata(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.write("a", 0, randomBytes(4096))
	c.crash("b")
	c.wait("b leaves", func() bool { return c.tryWrite("a", 4096, randomBytes(4096)) == nil && c.inSync() == "[a]" })
	b := c.nodes["b"]
	disk, meta := bytes.Clone(b.disk.p), bytes.Clone(b.meta.p)
	tag := b.disk.tag
	c.start("b")
	c.wait("b in sync", c.allInSync)
	c.write("a", 1<<20, randomBytes(4096)) // only an in-sync b has it, and no bit
	c.crash("b")
	copy(b.disk.p, disk)
	copy(b.meta.p, meta)
	b.disk.tag = tag
	var resync atomic.Pointer[string]
	c.emit = func(e Event) {
		if strings.Contains(e.To, "resync") {
			resync.Store(&e.To)
		}
	}
	c.crash("a")
	c.start("a")
	c.promote("a")
	c.start("b")
	c.wait("b in sync again", c.allInSync)
	c.equal()
	if kind := resync.Load(); kind == nil || *kind != actionFull.String() {
		t.Errorf("resync of an older copy: %v", kind)
	}
}

// A disk that was restored without its metadata, or the other way round, is not in sync whatever the record says.
func TestDiskAndMetadataOfDifferentTimes(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 10)
	c.crash("b")
	c.start("b")
	c.wait("b in sync again", c.allInSync)
	if err := c.nodes["a"].resource.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.nodes["b"].resource.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.nodes["a"].resource, c.nodes["b"].resource = nil, nil
	b := c.nodes["b"]
	b.disk.tag -= 2
	clear(b.disk.p[:1<<20]) // an older image
	c.start("b")
	if err := c.nodes["b"].resource.Promote(t.Context()); err == nil || !strings.Contains(err.Error(), "can't be trusted") {
		t.Fatalf("promoted, or %v", err)
	}
	c.start("a")
	c.promote("a")
	c.wait("b in sync again", c.allInSync)
	c.equal()
}
