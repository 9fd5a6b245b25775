package replication

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"duet/bitmap"
)

// stuckDisk makes an operation of a disk not return until release is called; reached is closed when the first one is
// there.
func stuckDisk(t *testing.T, d *memoryDisk, operation string) (reached chan struct{}, release func()) {
	reached = make(chan struct{})
	until := make(chan struct{})
	var first sync.Once
	fault := func(what string) error {
		if what == operation {
			first.Do(func() { close(reached) })
			<-until
		}
		return nil
	}
	d.fault.Store(&fault)
	var once sync.Once
	release = func() { once.Do(func() { d.fault.Store(nil); close(until) }) }
	t.Cleanup(release)
	return reached, release
}

// readerBatch is the Batch of a goroutine that reads a client's connection.
type readerBatch struct{ stuck atomic.Int64 }

func (*readerBatch) Defer(f interface{ Flush() }) { f.Flush() }
func (*readerBatch) More() bool                   { return false }
func (b *readerBatch) Stuck()                     { b.stuck.Add(1) }

// keptCompletion is a completion whose payload has to be left alone.
type keptCompletion struct {
	waitCompletion
	kept *atomic.Bool
}

func (k keptCompletion) KeepBuffer() { k.kept.Store(true) }

// newStuckCluster gives disks up soon.
func newStuckCluster(t *testing.T, names ...string) *testCluster {
	c := newTestCluster(t)
	c.diskTimeout = 100 * time.Millisecond
	c.form(names...)
	return c
}

// A disk of the Primary that does not return is one that failed: what waits for it goes on through the peer, what comes
// later does, and the buffers that it still has are not used for anything else.
func TestPrimaryGoesOnWithoutAStuckDisk(t *testing.T) {
	for _, operation := range []string{"write", "read", "sync"} {
		for _, lengthBytes := range []int{4096, 2 * inlineBytes} {
			t.Run(operation+fmt.Sprint(" of ", lengthBytes), func(t *testing.T) {
				c := newStuckCluster(t, "a", "b")
				c.promote("a")
				c.writeSome("a", 10)
				want := randomBytes(lengthBytes)
				c.write("a", 65536, want)
				reached, release := stuckDisk(t, c.nodes["a"].disk, operation)
				v := c.nodes["a"].resource.Volume()
				b := &readerBatch{}
				var kept atomic.Bool
				done := keptCompletion{make(waitCompletion, 1), &kept}
				got := make([]byte, lengthBytes)
				go func() {
					switch operation {
					case "write":
						v.Write(want, 65536, false, b, done)
					case "read":
						v.Read(got, 65536, b, done)
					default:
						v.Flush(b, done)
					}
				}()
				<-reached
				if err := c.answer(operation, done.waitCompletion); err != nil {
					t.Fatal(err)
				}
				if operation == "read" && string(got) != string(want) {
					t.Error("the peer has other data")
				}
				if inline := operation == "write" && lengthBytes <= inlineBytes; inline != (b.stuck.Load() == 1) {
					t.Errorf("the client's reader was relieved %d times", b.stuck.Load())
				}
				if kept.Load() != (operation == "write") {
					t.Error("the payload of what did not return may be used again")
				}
				c.wait("a leaves the set", func() bool { return c.inSync() == "[b]" && c.diskState("a") == "Failed" })
				if reason := c.nodes["a"].resource.Status().Reason; !strings.Contains(reason, "has not returned for") {
					t.Errorf("the reason is %q", reason)
				}
				if err := c.tryRead("a", 65536, got); err != nil || string(got) != string(want) {
					t.Errorf("read through the peer: other data, or %v", err)
				}
				c.writeSome("a", 10)
				c.flush("a")
				late := append([]byte(nil), c.nodes["b"].disk.p...)
				release()
				c.wait("everything has returned", func() bool { return c.nodes["a"].resource.local.watch.count() == 0 })
				if err := c.tryRead("a", 0, got); err != nil || string(got) != string(late[:len(got)]) {
					t.Errorf("read through the peer, later: other data, or %v", err)
				}
				c.crash("a")
				c.diskTimeout = 10 * time.Second // the disk is well again, and the machine may be slow
				c.start("a")
				c.wait("b takes over", func() bool { return c.nodes["b"].resource.Promote(t.Context()) == nil })
				c.wait("a in sync again", c.allInSync)
				c.equal()
			})
		}
	}
}

// All workers of the Primary may be in its disk when that stops to answer.
func TestEveryWorkerIsStuck(t *testing.T) {
	c := newStuckCluster(t, "a", "b")
	c.promote("a")
	c.write("a", 0, randomBytes(4096))
	reached, _ := stuckDisk(t, c.nodes["a"].disk, "write")
	v := c.nodes["a"].resource.Volume()
	var all []waitCompletion
	for i := range uint64(3 * defaultWorkers) {
		done := make(waitCompletion, 1)
		all = append(all, done)
		v.Write(randomBytes(2*inlineBytes), i*(1<<20), false, nil, done)
	}
	<-reached
	for _, done := range all {
		if err := c.answer("a write", done); err != nil {
			t.Fatal(err)
		}
	}
	c.flush("a")
	c.wait("a leaves the set", func() bool { return c.inSync() == "[b]" })
}

// The same for metadata, which the activity log, the bitmaps and the control loop wait for.
func TestStuckMetadata(t *testing.T) {
	for _, operation := range []string{"write", "sync"} {
		t.Run(operation, func(t *testing.T) {
			c := newStuckCluster(t, "a", "b")
			c.promote("a")
			c.write("a", 0, randomBytes(4096))
			reached, _ := stuckDisk(t, c.nodes["a"].meta, operation)
			done := make(waitCompletion, 1)
			c.nodes["a"].resource.Volume().Write(randomBytes(4096), 5*bitmap.ExtentBytes, false, nil, done) // cold
			<-reached
			if err := c.answer("the write", done); err != nil {
				t.Fatal(err)
			}
			c.wait("a leaves the set", func() bool { return c.inSync() == "[b]" && c.diskState("a") == "Failed" })
			c.writeSome("a", 10)
		})
	}
}

// A Secondary whose disk does not return is out, at the latest when the Primary has waited for long enough; its own session
// ends, and it says what it waits for.
func TestSecondaryWithAStuckDisk(t *testing.T) {
	for _, part := range []string{"disk", "meta"} {
		t.Run(part, func(t *testing.T) {
			c := newStuckCluster(t, "a", "b")
			c.promote("a")
			c.writeSome("a", 10)
			d := c.nodes["b"].disk
			if part == "meta" {
				d = c.nodes["b"].meta
			}
			_, release := stuckDisk(t, d, "write")
			for i := range uint64(8) {
				if err := c.tryWrite("a", i*bitmap.ExtentBytes, randomBytes(4096)); err != nil {
					t.Fatal(err)
				}
			}
			if got := c.inSync(); got != "[a]" {
				t.Fatalf("acknowledged with %s in sync", got)
			}
			c.wait("b says so", func() bool { return c.diskState("b") == "Failed" })
			c.wait("the session begins anew", func() bool {
				return c.nodes["a"].resource.Status().Peers[0].ConnectionState == "Connected"
			})
			release()
			c.crash("b")
			c.diskTimeout = 10 * time.Second // the disk is well again, and the machine may be slow
			c.start("b")
			c.wait("b in sync again", c.allInSync)
			c.equal()
		})
	}
}

// The only replica in sync waits for its disk: there is nothing else to do. Its control loop answers all the same, and stops
// to serve when another node is Primary.
func TestOnlyDiskIsWaitedFor(t *testing.T) {
	revoked := make(chan string, 8)
	c := newTestCluster(t)
	c.diskTimeout = 50 * time.Millisecond
	c.revoke = func(reason string) { revoked <- reason }
	c.form("a", "b")
	c.promote("a")
	c.crash("b")
	c.write("a", 0, randomBytes(4096))
	c.wait("a is alone", func() bool { return c.inSync() == "[a]" })
	reached, release := stuckDisk(t, c.nodes["a"].meta, "sync")
	r := c.nodes["a"].resource
	conf := c.committed()
	conf.Generation++ // the same Primary; to be promised
	r.Learn(conf)
	<-reached
	c.wait("a says what it waits for", func() bool { return strings.Contains(r.Status().Reason, "the disk is stuck") })
	if state := r.Status().DiskState; state != "UpToDate" {
		t.Errorf("the only copy is %s", state)
	}
	conf.Generation++
	conf.Primary, conf.PrimaryIncarnation = "b", 9
	r.Learn(conf)
	select {
	case <-revoked:
	case <-time.After(10 * time.Second):
		t.Fatal("clients are not cut off while the metadata are stuck")
	}
	release()
	c.wait("a is Secondary", func() bool { return r.Status().Role == "Secondary" })
}

// A resource that is closed while its disk is stuck does not wait for it for ever.
func TestCloseWithAStuckDisk(t *testing.T) {
	c := newStuckCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 3)
	stuckDisk(t, c.nodes["b"].disk, "sync")
	r := c.nodes["b"].resource
	if err := r.Close(t.Context()); err == nil {
		t.Error("closed in good order")
	}
	c.mu.Lock()
	c.nodes["b"].resource = nil
	c.mu.Unlock()
}

// What is told of a failure, and what the policy makes of a read that fails.
func TestOnIOError(t *testing.T) {
	for _, policy := range []OnIOError{"", OnIOErrorPassOn, OnIOErrorHandler} {
		t.Run("policy "+string(policy), func(t *testing.T) {
			told := make(chan DiskFailure, 8)
			c := newTestCluster(t)
			c.diskFailed = func(f DiskFailure) { told <- f }
			c.policy = policy
			c.form("a", "b")
			c.promote("a")
			want := randomBytes(4096)
			c.write("a", 8192, want)
			c.nodes["a"].disk.failing("read", syscall.EIO)
			got := make([]byte, len(want))
			err := c.tryRead("a", 8192, got)
			if policy == OnIOErrorPassOn {
				if err == nil || c.diskState("a") != "UpToDate" {
					t.Fatalf("the read: %v, the disk %s", err, c.diskState("a"))
				}
				c.nodes["a"].disk.failing("write", syscall.EIO) // what can't be passed on
				if err := c.tryWrite("a", 8192, want); err != nil {
					t.Fatal(err)
				}
			} else if err != nil || string(got) != string(want) {
				t.Fatalf("other data, or %v", err)
			}
			c.wait("a leaves the set", func() bool { return c.inSync() == "[b]" })
			f := <-told
			if f.Resource != "r0" || f.Role != "Primary" || f.Cause == nil || policy != "" && f.Policy != policy {
				t.Errorf("told %+v", f)
			}
		})
	}
}

// committed is the record.
func (c *testCluster) committed() Configuration {
	c.arbiter.mu.Lock()
	defer c.arbiter.mu.Unlock()
	return c.arbiter.conf
}
