package replication

import (
	"errors"
	"sync"
	"testing"
	"time"

	"duet/bitmap"
)

// A replica hears that an epoch is stable only after it knows who has left the set: what the lost one may lack has to
// be bits by then.
func TestStableComesAfterTheRemoval(t *testing.T) {
	for range 10 {
		c := newTestCluster(t, "a", "b", "c")
		c.promote("a")
		c.writeSome("a", 5)
		c.flush("a")
		release := make(chan struct{})
		fault := func(operation string) error {
			if operation == "sync" {
				<-release
			}
			return nil
		}
		c.nodes["c"].disk.fault.Store(&fault)
		c.write("a", 0, randomBytes(8*bitmap.BlockBytes))
		done := make(waitCompletion, 1)
		c.nodes["a"].resource.Volume().Flush(nil, done)
		c.nodes["c"].resource.cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		close(release)
		b := c.nodes["b"].resource
		c.wait("b knows what c may lack", func() bool {
			for _, peer := range b.Status().Peers {
				if peer.Node == "c" {
					return peer.OutOfSyncBytes >= 8*bitmap.BlockBytes
				}
			}
			return false
		})
		c.crash("c")
	}
}

// A Secondary whose activity log is full makes bits of what is not stable, and takes them back once it is.
func TestBitsOfAFullActivityLogGo(t *testing.T) {
	c := newTestClusterWithLog(t, bitmap.MinALExtents, "a", "b")
	c.promote("a")
	for i := range 200 {
		c.write("a", uint64(i%8)*bitmap.ExtentBytes+uint64(i)*bitmap.BlockBytes, randomBytes(bitmap.BlockBytes))
	}
	c.flush("a")
	c.nodes["b"].resource.post(c.nodes["b"].resource.activityLogFull)
	c.write("a", 0, randomBytes(bitmap.BlockBytes))
	c.nodes["b"].resource.post(c.nodes["b"].resource.activityLogFull)
	for _, name := range []string{"a", "b"} {
		c.wait("nothing is out of sync on "+name, func() bool { return c.nodes[name].resource.Status().Peers[0].OutOfSyncBytes == 0 })
	}
	c.equal()
}

// The same without anything to take back: a quiet device ends with every range stable.
func TestQuietDeviceIsStable(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 20)
	started := time.Now()
	for _, name := range []string{"a", "b"} {
		c.wait(name+" has nothing that is not stable", func() bool {
			v := c.nodes[name].resource.volume
			v.mu.Lock()
			defer v.mu.Unlock()
			return v.log.empty()
		})
	}
	t.Logf("after %v", time.Since(started))
}

// holdWrites makes writes of a disk wait. asked tells of the first; release lets all go on.
func (d *memoryDisk) holdWrites() (asked <-chan struct{}, release func()) {
	first, answer := make(chan struct{}), make(chan struct{})
	var once sync.Once
	fault := func(operation string) error {
		if operation == "write" {
			once.Do(func() { close(first) })
			<-answer
		}
		return nil
	}
	d.fault.Store(&fault)
	return first, sync.OnceFunc(func() { d.fault.Store(nil); close(answer) })
}

// logged reports whether a node knows that a block may not be stable: by its transfer log, or by bits towards all peers.
func (c *testCluster) logged(name string, block uint64) bool {
	v := c.nodes[name].resource.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	known, off := false, block*bitmap.BlockBytes
	v.log.runs(func(from, n uint64) { known = known || from <= off && off < from+n })
	bits := 0
	for slot := range len(c.nodes) {
		if v.local.store.IsDirty(slot, off, bitmap.BlockBytes) {
			bits++
		}
	}
	return known || bits == len(c.nodes)-1
}

// A write that waited for its extent while a barrier came is stable with that barrier's epoch: it does not stay in the
// Secondary's log until the next write.
func TestColdWriteIsStableWithItsEpoch(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.write("a", 0, randomBytes(bitmap.BlockBytes)) // both are ready for writes
	b := c.nodes["b"].resource.volume
	asked, release := c.nodes["b"].meta.holdWrites()
	write, flush := make(waitCompletion, 1), make(waitCompletion, 1)
	c.nodes["a"].resource.Volume().Write(randomBytes(bitmap.BlockBytes), 3*bitmap.ExtentBytes, false, nil, write)
	<-asked
	c.nodes["a"].resource.Volume().Flush(nil, flush)
	c.wait("the barrier to be at b", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.barrier != nil
	})
	release()
	if err := errors.Join(c.answer("the write", write), c.answer("the flush", flush)); err != nil {
		t.Fatal(err)
	}
	c.wait("b has nothing that is not stable", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.log.empty()
	})
}

// A write that comes while a Secondary makes its log durable bits, for want of room in its activity log, is in the log
// afterwards: it has no bit.
func TestWriteWhileTheLogBecomesBits(t *testing.T) {
	c := newTestCluster(t, "a", "b", "c")
	c.promote("a")
	c.write("a", 0, randomBytes(bitmap.BlockBytes)) // its extent is hot from here on
	release := c.nodes["c"].disk.holdSyncs()        // nothing is stable any more
	c.write("a", bitmap.BlockBytes, randomBytes(bitmap.BlockBytes))
	b := c.nodes["b"].resource
	asked, goOn := c.nodes["b"].meta.holdWrites()
	done := make(chan struct{})
	b.post(func() { b.activityLogFull(); close(done) })
	<-asked
	c.write("a", 2*bitmap.BlockBytes, randomBytes(bitmap.BlockBytes))
	goOn()
	<-done
	for block := uint64(1); block <= 2; block++ {
		if !c.logged("b", block) {
			t.Errorf("b has forgotten that block %d may not be everywhere", block)
		}
	}
	release()
	c.flush("a")
	c.equal()
}

// holdSyncs makes syncs of a disk wait until release is called.
func (d *memoryDisk) holdSyncs() (release func()) {
	answer := make(chan struct{})
	fault := func(operation string) error {
		if operation == "sync" {
			<-answer
		}
		return nil
	}
	d.fault.Store(&fault)
	return sync.OnceFunc(func() { d.fault.Store(nil); close(answer) })
}
