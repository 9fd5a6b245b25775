package replication

import (
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
