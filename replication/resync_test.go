package replication

import (
	"bytes"
	"sync"
	"testing"

	"duet/bitmap"
)

// newReturningCluster has a Primary a with some content, and b, whose replica was never in sync.
func newReturningCluster(t *testing.T, prepare func(a, b *testNode)) *testCluster {
	t.Helper()
	c := newTestCluster(t, "a", "b")
	c.crash("a")
	c.crash("b")
	conf := &c.arbiter.conf
	conf.InSync, conf.Replicas[1].AdmittedAt = []string{"a"}, 0
	prepare(c.nodes["a"], c.nodes["b"])
	c.start("a")
	c.promote("a")
	return c
}

// sourceSent is what a has sent to its peer in blocks of a resync.
func (c *testCluster) sourceSent() uint64 {
	return c.nodes["a"].resource.Status().Peers[0].SentBytes
}

func TestSparseDeviceStaysSparse(t *testing.T) {
	for name, have := range map[string]features{"pieces": allFeatures, "whole answers": {}} {
		t.Run(name, func(t *testing.T) {
			c := newReturningCluster(t, func(a, b *testNode) {
				copy(a.disk.p[1<<20:], randomBytes(3*bitmap.BlockBytes))
				copy(a.disk.p[9<<20+8192:], randomBytes(bitmap.BlockBytes))
				a.disk.becomeSparse()
				clear(a.disk.sparse[4096:4100]) // stored zeroes
				copy(b.disk.p[5<<20:], randomBytes(1<<20))
				b.disk.becomeSparse()
			})
			c.tweak = func(r *Resource) { r.features = have }
			c.start("b")
			c.wait("b in sync", c.allInSync)
			c.equal()
			if have != allFeatures {
				return
			}
			a, b := c.nodes["a"].disk, c.nodes["b"].disk
			if a.stored() != 8 || b.stored() != 4 {
				t.Errorf("%d blocks are stored at the source, %d at the target", a.stored(), b.stored())
			}
			if sent := c.sourceSent(); sent != 4*bitmap.BlockBytes {
				t.Errorf("%d bytes were sent for 4 blocks", sent)
			}
			if punches := b.punches.Load(); punches != 1 {
				t.Errorf("zeroes were written %d times to a disk with one run of data", punches)
			}
		})
	}
}

func TestFullResyncOfEqualDisksSendsNothing(t *testing.T) {
	content := randomBytes(testDeviceBytes)
	c := newReturningCluster(t, func(a, b *testNode) {
		copy(a.disk.p, content)
		copy(b.disk.p, content)
		b.disk.p[17<<20] ^= 1
	})
	before := c.nodes["b"].disk.bytes.Load()
	c.start("b")
	c.wait("b in sync", c.allInSync)
	c.equal()
	if sent, written := c.sourceSent(), c.nodes["b"].disk.bytes.Load()-before; sent != bitmap.BlockBytes || written != sent {
		t.Errorf("%d bytes were sent and %d written for one block", sent, written)
	}
}

// TestReturnOfCrashedPrimarySendsWhatDiffers: its activity log says that extents of 4 MiB may differ.
func TestReturnOfCrashedPrimarySendsWhatDiffers(t *testing.T) {
	c := newTestCluster(t, "b", "a") // a is the source
	c.promote("b")
	for off := uint64(0); off < testDeviceBytes; off += 1 << 20 {
		c.write("b", off, randomBytes(1<<20))
	}
	c.flush("b")
	c.write("b", 4096, randomBytes(4096)) // makes its extent hot, as every write to it would
	c.crash("b")
	copy(c.nodes["b"].disk.p[8192:], randomBytes(4096)) // a write that reached only the local disk
	c.wait("a notices", func() bool { return c.nodes["a"].resource.Status().Peers[0].ConnectionState != "Connected" })
	c.promote("a")
	c.write("a", 3<<20, randomBytes(4096))
	c.write("a", 30<<20, randomBytes(8192))
	c.start("b")
	c.wait("b in sync again", c.allInSync)
	c.equal()
	// 8192 and 3 MiB differ, 30 MiB is one request of two blocks; a write that was not stable may come on top.
	if sent := c.sourceSent(); sent < 4*4096 || sent > 6*4096 {
		t.Errorf("%d bytes were sent for four blocks", sent)
	}
}

// TestCrashedPrimaryComparesItsHotExtents: it is Primary again, and what its log says of the other replica is a guess.
func TestCrashedPrimaryComparesItsHotExtents(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	for off := uint64(0); off < 8<<20; off += 1 << 20 {
		c.write("a", off, randomBytes(1<<20))
	}
	c.write("a", 4096, randomBytes(4096))
	c.crash("a")
	copy(c.nodes["a"].disk.p[12288:], randomBytes(4096))
	c.start("a")
	c.promote("a")
	c.wait("b in sync again", c.allInSync)
	c.equal()
	if sent := c.sourceSent(); sent != 4096 {
		t.Errorf("%d bytes were sent for one block", sent)
	}
}

// TestDoubtfulDiskIsNotCompared: what the page cache says of a disk that failed may not be on it.
func TestDoubtfulDiskIsNotCompared(t *testing.T) {
	content := randomBytes(testDeviceBytes)
	c := newReturningCluster(t, func(a, b *testNode) {
		copy(a.disk.p, content)
		copy(b.disk.p, content)
		b.disk.tag += 7 // not last used with this metadata
	})
	c.start("b")
	c.wait("b in sync", c.allInSync)
	if sent := c.sourceSent(); sent != testDeviceBytes {
		t.Errorf("%d bytes were sent", sent)
	}
}

// TestScatteredBlocks: each is a request of its own, and the source does not put up with any number of them.
func TestScatteredBlocks(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.crash("b")
	block := randomBytes(bitmap.BlockBytes)
	for off := uint64(0); off < testDeviceBytes; off += 2 * bitmap.BlockBytes {
		c.write("a", off, block)
	}
	c.start("b")
	c.wait("b in sync", c.allInSync)
	c.equal()
}

func TestComparingUnderWrites(t *testing.T) {
	content := randomBytes(testDeviceBytes)
	c := newReturningCluster(t, func(a, b *testNode) {
		copy(a.disk.p, content)
		copy(b.disk.p, content)
	})
	c.start("b")
	c.wait("b in sync", func() bool {
		c.writeSome("a", 5)
		return c.allInSync()
	})
	c.flush("a")
	c.equal()
	if bytes.Equal(c.nodes["b"].disk.p, content) {
		t.Error("nothing was written")
	}
}

func TestSourceDiskFailsDuringResync(t *testing.T) {
	c := newReturningCluster(t, func(a, _ *testNode) { copy(a.disk.p, randomBytes(testDeviceBytes)) })
	failed := make(chan struct{})
	once := sync.OnceFunc(func() { close(failed) })
	fault := func(operation string) error {
		if operation != "read" {
			return nil
		}
		once()
		return ErrDiskFailed
	}
	c.nodes["a"].disk.fault.Store(&fault)
	c.start("b")
	<-failed
	c.nodes["a"].disk.fault.Store(nil)
	c.write("a", 0, randomBytes(8<<20)) // no range stays locked
	c.wait("b in sync", c.allInSync)
	c.equal()
}
