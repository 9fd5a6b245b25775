package replication

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// change commits a change that no replica proposes.
func (a *recordArbiter) change(edit func(conf *Configuration)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.conf
	next.Generation++
	next.Replicas, next.InSync = slices.Clone(a.conf.Replicas), slices.Clone(a.conf.InSync)
	edit(&next)
	a.conf = next
	a.learn(next)
}

// addReplica gives a node a disk and the resource a replica there.
func (c *testCluster) addReplica(name string, slot int, disk *memoryDisk) {
	c.t.Helper()
	n := &testNode{name: name, disk: disk, meta: &memoryDisk{p: make([]byte, MetadataBytes(testDeviceBytes, c.extents))}}
	cfg := FormatConfig{ClusterID: "c", Resource: "r0", Node: name, ResourceID: [16]byte{1}, Slot: slot, SizeBytes: testDeviceBytes, ALExtents: c.extents}
	if err := Format(n.meta, cfg); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.nodes[name] = n
	c.mu.Unlock()
	c.arbiter.change(func(conf *Configuration) {
		conf.Replicas = append(conf.Replicas, Replica{Node: name, Slot: slot, AddedAt: conf.Generation})
	})
	c.start(name)
	c.t.Cleanup(func() { c.crash(name) })
}

// removeReplica takes one out of the record; its process goes on until it is told.
func (c *testCluster) removeReplica(name string) {
	c.arbiter.change(func(conf *Configuration) {
		conf.InSync = without(conf.InSync, name)
		conf.Replicas = slices.DeleteFunc(conf.Replicas, func(r Replica) bool { return r.Node == name })
	})
}

// leave stops a node in good order: then all is stable, and none of its extents counts as hot.
func (c *testCluster) leave(name string) {
	c.t.Helper()
	c.flush("a")
	if err := c.nodes[name].resource.Close(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.nodes[name].resource = nil
	c.mu.Unlock()
}

// load writes on a node until the returned function is called.
func (c *testCluster) load(name string) (stop func()) {
	ended, volume := make(chan struct{}), c.nodes[name].resource.Volume()
	var writers sync.WaitGroup
	for i := range uint64(4) {
		writers.Go(func() {
			for at := i; ; at += 4 {
				select {
				case <-ended:
					return
				default:
				}
				done := make(waitCompletion, 1)
				volume.Write(randomBytes(4096), at%(testDeviceBytes/4096)*4096, false, nil, done)
				if err := <-done; err != nil {
					c.t.Error(err)
					return
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		close(ended)
		writers.Wait()
	})
}

func newDisk() *memoryDisk { return &memoryDisk{p: make([]byte, testDeviceBytes)} }

// A replica is added to, and taken from, a resource that is written to all the time; one that comes again is a new one.
func TestReplicasComeAndGoUnderLoad(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 20)
	stop := c.load("a")
	defer stop()
	c.addReplica("c", 2, newDisk())
	c.wait("c in sync", c.allInSync)
	for range 3 {
		former := c.nodes["c"].resource
		c.removeReplica("c")
		c.wait("a and b to have no link of c", func() bool {
			return len(c.nodes["a"].resource.Status().Peers) == 1 && len(c.nodes["b"].resource.Status().Peers) == 1
		})
		c.writeSome("a", 5) // nobody waits for it
		if st := former.Status(); st.Generation >= c.nodes["a"].resource.Status().Generation {
			t.Errorf("c acts in generation %d, which it has no part in", st.Generation)
		}
		c.crash("c")
		disk := newDisk()
		copy(disk.p, randomBytes(1<<20)) // what its disk held before is no matter
		c.addReplica("c", 2, disk)
		c.wait("c in sync again", c.allInSync)
	}
	stop()
	c.equal()
}

// A replica whose node is removed and comes again between two looks at the record is not the one that it was.
func TestReplicaReplacedInOneStep(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 20)
	c.leave("b")
	c.writeSome("a", 5)
	c.wait("b to leave the set", func() bool { return len(c.committed().InSync) == 1 })
	learn := c.arbiter.learn
	c.arbiter.learn = func(Configuration) {} // a does not hear of the removal alone
	c.removeReplica("b")
	c.arbiter.learn = learn
	c.addReplica("b", 1, newDisk())
	c.wait("b in sync", c.allInSync)
	c.equal()
}

// A new replica marks what it did not have to copy, too: another one that was away all the time may have something else there.
func TestNewReplicaKnowsWhatOthersLack(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.write("a", 0, randomBytes(64<<10))
	c.leave("b")
	c.write("a", 0, randomBytes(64<<10))
	c.wait("b to leave the set", func() bool { return len(c.committed().InSync) == 1 })
	c.flush("a")
	disk := newDisk()
	copy(disk.p, c.nodes["a"].disk.p)
	c.addReplica("c", 2, disk)
	c.wait("c in sync", func() bool { return c.nodes["c"].resource.Status().DiskState == "UpToDate" })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.nodes["a"].resource.Demote(ctx); err != nil {
		t.Fatal(err)
	}
	c.crash("a")
	c.promote("c")
	c.start("b")
	c.wait("b in sync with c", func() bool { return c.nodes["b"].resource.Status().DiskState == "UpToDate" })
	if different := differingBlocks(c.nodes["b"].disk.p, c.nodes["c"].disk.p); different != "blocks" {
		t.Errorf("b and c differ in %s", different)
	}
}

// Whatever the order in which replicas come, go, die and take over: in the end all that there are get equal.
func TestReplicasComeAndGoInAnyOrder(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			dice := rand.New(rand.NewPCG(seed, 1))
			for range 40 {
				c.stepOfMembers(dice)
			}
			for name, n := range c.nodes {
				if _, member := c.slotOf(name); member && n.resource == nil {
					c.start(name)
				}
			}
			c.primaryAgain()
			c.writeSome(c.committed().Primary, 3)
			c.wait("all in sync", func() bool {
				conf := c.committed()
				return len(conf.InSync) == len(conf.Replicas)
			})
			first := c.nodes[c.committed().Primary]
			for _, replica := range c.committed().Replicas {
				if different := differingBlocks(first.disk.p, c.nodes[replica.Node].disk.p); different != "blocks" {
					t.Errorf("%s and %s differ in %s", first.name, replica.Node, different)
				}
			}
		})
	}
}

// slotOf is the slot of a node's replica.
func (c *testCluster) slotOf(name string) (slot int, member bool) {
	conf := c.committed()
	if replica := conf.replica(name); replica != nil {
		return replica.Slot, true
	}
	return 0, false
}

// primaryAgain makes an in-sync node Primary, if the Primary does not run.
func (c *testCluster) primaryAgain() {
	conf := c.committed()
	if n := c.nodes[conf.Primary]; n != nil && n.resource != nil && n.incarnation == conf.PrimaryIncarnation {
		return
	}
	heir := conf.InSync[0]
	if c.nodes[heir].resource == nil {
		c.start(heir)
	}
	c.promote(heir)
}

// stepOfMembers writes something and does one thing more, if that is possible then.
func (c *testCluster) stepOfMembers(dice *rand.Rand) {
	c.primaryAgain()
	conf := c.committed()
	c.writeSome(conf.Primary, dice.IntN(3))
	conf = c.committed()
	name := []string{"a", "b", "c", "d"}[dice.IntN(4)]
	_, member := c.slotOf(name)
	running := member && c.nodes[name].resource != nil
	switch dice.IntN(5) {
	case 0:
		if running {
			c.crash(name)
		}
	case 1:
		if member && !running {
			c.start(name)
		}
	case 2:
		if member && name != conf.Primary && len(without(conf.InSync, name)) > 0 {
			c.replaceReplica(name, dice.IntN(2) == 0, dice.IntN(2) == 0)
		}
	default:
		if !member {
			disk := newDisk()
			copy(disk.p, c.nodes[conf.Primary].disk.p[:dice.IntN(4)<<20])
			c.addReplica(name, c.freeSlot(), disk)
		}
	}
}

// replaceReplica removes a replica; again: and adds one there, on a new disk; unseen: nobody learns of the
// removal alone.
func (c *testCluster) replaceReplica(name string, again, unseen bool) {
	slot, _ := c.slotOf(name)
	disk := newDisk()
	if again {
		c.crash(name)
	}
	learn := c.arbiter.learn
	if again && unseen {
		c.arbiter.learn = func(Configuration) {}
	}
	c.removeReplica(name)
	c.arbiter.learn = learn
	c.crash(name)
	if again {
		c.addReplica(name, slot, disk)
	}
}

// freeSlot is the lowest slot that no replica has.
func (c *testCluster) freeSlot() int {
	conf := c.committed()
	for slot := 0; ; slot++ {
		if !slices.ContainsFunc(conf.Replicas, func(r Replica) bool { return r.Slot == slot }) {
			return slot
		}
	}
}
