package replication

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"duet/bitmap"
)

// resize commits a new size, as the quorum does when all replicas have made room.
func (a *recordArbiter) resize(sizeBytes uint64, apart bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.conf
	next.Generation++
	next.SizeBytes, next.GrownApart = sizeBytes, apart
	next.Replicas = append([]Replica(nil), a.conf.Replicas...)
	if apart {
		next.InSync = []string{next.Primary}
		for i := range next.Replicas {
			if next.Replicas[i].Node != next.Primary {
				next.Replicas[i].LeftAt = next.Generation
			}
		}
	}
	a.conf = next
	a.learn(next)
}

// makeRoom asks every replica that runs; it returns whether all have zeroes in the new part.
func (c *testCluster) makeRoom(from, sizeBytes uint64) bool {
	c.t.Helper()
	zeroes := true
	c.wait("the record to be known everywhere", func() bool {
		for _, n := range c.nodes {
			if n.resource.Status().Generation != c.arbiter.record().Generation {
				return false
			}
		}
		return true
	})
	for name, n := range c.nodes {
		if _, err := n.resource.MakeRoom(c.t.Context(), from, sizeBytes, true); err != nil {
			c.t.Fatal(err)
		}
		room, err := n.resource.MakeRoom(c.t.Context(), from, sizeBytes, false)
		if err != nil || room.Incarnation != n.incarnation {
			c.t.Fatalf("%s: %+v, %v", name, room, err)
		}
		zeroes = zeroes && room.Zeroes
	}
	return zeroes
}

func (c *testCluster) hasSize(sizeBytes uint64) func() bool {
	return func() bool {
		for _, n := range c.nodes {
			if n.resource != nil && (n.resource.Volume().SizeBytes() != sizeBytes || n.resource.superblock().SizeBytes != sizeBytes) {
				return false
			}
		}
		return true
	}
}

// The device grows under load, twice; what is written behind its former end is on every replica, also on one that was away then.
func TestDeviceGrowsUnderLoad(t *testing.T) {
	c := newTestCluster(t, "a", "b", "c")
	for _, n := range c.nodes {
		n.disk.becomeSparse()
	}
	c.promote("a")
	c.writeSome("a", 1)
	c.wait("all in sync", c.allInSync)
	before := c.arbiter.record().Generation
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i := range uint64(4) {
		writers.Go(func() {
			for n := uint64(0); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := c.tryWrite("a", (i+4*(n%500))*3*bitmap.BlockBytes, randomBytes(4096)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	slow := func(operation string) error { // between the steps of the adoption there is time
		if operation == "sync" {
			<-time.After(2 * time.Millisecond)
		}
		return nil
	}
	c.nodes["a"].meta.fault.Store(&slow)
	writers.Go(func() { // who sees the new size at once
		for {
			select {
			case <-stop:
				return
			default:
			}
			at := c.nodes["a"].resource.Volume().SizeBytes() - bitmap.BlockBytes
			if err := c.tryWrite("a", at, randomBytes(4096)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	size := uint64(testDeviceBytes)
	for _, larger := range []uint64{48 << 20, 100 << 20} {
		if !c.makeRoom(size, larger) {
			t.Error("a file that was made longer holds something")
		}
		c.arbiter.resize(larger, false)
		c.wait("the new size everywhere", c.hasSize(larger))
		for off := larger - bitmap.BlockBytes; off > size; off -= (larger - size) / 9 / bitmap.BlockBytes * bitmap.BlockBytes {
			c.write("a", off, randomBytes(bitmap.BlockBytes))
		}
		size = larger
	}
	if got := c.arbiter.record().Generation; got != before+2 {
		t.Errorf("%d changes: a replica left the set", got-before)
	}
	c.crash("b")
	c.write("a", 98<<20, randomBytes(1<<20))
	c.start("b")
	c.wait("b in sync again", c.allInSync)
	close(stop)
	writers.Wait()
	c.equal()
}

// A replica that was away when the record got the new size grows when it is attached.
func TestDeviceGrowsWhileReplicasAreAway(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 10)
	for _, n := range c.nodes {
		n.disk.becomeSparse()
	}
	c.makeRoom(testDeviceBytes, 80<<20)
	c.crash("a")
	c.crash("b")
	c.arbiter.resize(80<<20, false)
	c.start("b")
	c.promote("b")
	c.start("a")
	c.wait("a in sync", c.allInSync)
	c.wait("the new size everywhere", c.hasSize(80<<20))
	c.write("b", 70<<20, randomBytes(4096))
	c.equal()
}

// Where the new parts of the disks may differ, the Primary's is copied.
func TestDevicesThatGrowApart(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	for _, n := range c.nodes {
		n.disk.p = append(n.disk.p, randomBytes(48<<20)...)
	}
	c.promote("a")
	c.writeSome("a", 10)
	if c.makeRoom(testDeviceBytes, 80<<20) {
		t.Fatal("what is no hole counts as zeroes")
	}
	for range 5 {
		c.writeSome("a", 2)
	}
	c.arbiter.resize(80<<20, true)
	c.wait("b to leave the set", func() bool { return c.nodes["a"].resource.Status().Generation >= 3 })
	c.writeSome("a", 5)
	c.write("a", 79<<20, randomBytes(4096))
	c.wait("b in sync again", c.allInSync)
	copied := c.nodes["a"].resource.Status().Peers[0].SentBytes
	c.writeSome("a", 5)
	c.equal()
	if want := uint64(48 << 20); copied > want+(8<<20) {
		t.Errorf("%d bytes were copied, %d are new", copied, want)
	}
}

func TestRoomIsRefused(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 1)
	a := c.nodes["a"]
	for _, tt := range []struct {
		name       string
		from, size uint64
		prepare    func()
		want       string
	}{
		{"smaller", testDeviceBytes, testDeviceBytes / 2, func() {}, "can only grow"},
		{"the same", testDeviceBytes, testDeviceBytes, func() {}, "can only grow"},
		{"from another size", 1 << 20, 80 << 20, func() {}, "another change of the size is under way"},
		{"a disk that can't", testDeviceBytes, 80 << 20, func() { a.disk.block = true }, "the disk of a has 33554432 bytes, 83886080 are needed"},
		{"metadata that can't", testDeviceBytes, 80 << 20, func() { a.disk.block, a.meta.block = false, true }, "the metadata of a"},
	} {
		tt.prepare()
		for _, look := range []bool{true, false} {
			_, err := a.resource.MakeRoom(t.Context(), tt.from, tt.size, look)
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
	}
	if len(c.nodes["b"].disk.p) != testDeviceBytes {
		t.Error("looking has changed something")
	}
	a.disk.failing("write", errors.New("broken"))
	c.write("a", 0, bytes.Repeat([]byte{1}, 4096))
	c.wait("the disk to be given up", func() bool { return a.resource.Status().DiskState == "Failed" })
	if _, err := a.resource.MakeRoom(t.Context(), testDeviceBytes, 80<<20, true); !errors.Is(err, ErrRefused) {
		t.Errorf("a failed disk: %v", err)
	}
}

// A member that a Primary refuses is waited for, and no write is acknowledged without it: it leaves the set first.
func TestRefusedMemberIsWaitedFor(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	a, b := c.nodes["a"].resource, c.nodes["b"].resource
	b.volume.sizeBytes.Store(2 * testDeviceBytes) // as if b had promised a size that a does not know
	end := func() {
		b.post(func() {
			if l := b.links["a"]; l.session != nil {
				l.session.fail(errors.New("ended by the test"))
			}
		})
	}
	end()
	c.wait("a session that knows of it", func() bool {
		size := make(chan uint64, 1)
		a.post(func() {
			if s := a.links["b"].session; s != nil {
				size <- s.hello.SizeBytes
				return
			}
			size <- 0
		})
		return <-size == 2*testDeviceBytes
	})
	c.promote("a")
	done := c.begin("a", 0)
	c.parked("a")
	select {
	case err := <-done:
		t.Fatalf("a write was answered without b: %v", err)
	default:
	}
	if st := a.Status(); !st.Suspended || len(c.arbiter.record().InSync) != 2 {
		t.Fatalf("status is %+v", st)
	}
	b.volume.sizeBytes.Store(testDeviceBytes)
	end()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	c.wait("b in sync", c.allInSync)
	c.equal()
}
