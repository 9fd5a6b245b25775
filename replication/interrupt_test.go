package replication

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"duet/bitmap"
)

// strike is what happens to a cluster in the middle of something: at one frame between two nodes.
type strike struct {
	from, to string
	counts   func(t FrameType) bool // which frames are counted
	before   int64                  // how many of them pass
	passed   atomic.Int64
	struck   chan struct{} // closed when it has happened
}

// mattersToResync leaves out what comes with the time that passes.
func mattersToResync(t FrameType) bool {
	return t != FramePing && t != FramePong && t != FrameLeaseAsk && t != FrameLeaseGrant
}

// onlyResync leaves out what the application causes as well.
func onlyResync(t FrameType) bool {
	return t == FrameConfiguration || t == FrameHello || t == FrameHelloReply || t >= FrameBitmapChunk && t <= FramePullStart
}

// ofPull are those that bring a Primary's own disk up to date.
func ofPull(t FrameType) bool { return onlyResync(t) || t == FrameRead || t == FrameReadReply }

// await arms a strike: the link between the nodes is lost before frame number before+1.
func (c *testCluster) await(s *strike) {
	s.struck = make(chan struct{})
	c.wiring.show(func(f lineFrame) bool {
		if f.from != s.from || f.to != s.to || !s.counts(f.Type) {
			return false
		}
		if s.passed.Add(1) != s.before+1 {
			return false
		}
		close(s.struck)
		return true
	})
}

// happened reports whether it has.
func (s *strike) happened() bool {
	select {
	case <-s.struck:
		return true
	default:
		return false
	}
}

// settled reports whether all replicas are in sync, and nothing is left to be done.
func (c *testCluster) settled() bool {
	if !c.allInSync() {
		return false
	}
	for _, n := range c.nodes {
		st := n.resource.Status()
		for _, p := range st.Peers {
			if st.Role == "Primary" && p.ConnectionState != "Connected" || p.OutOfSyncBytes != 0 || p.ReplicationState == "SyncSource" || p.ReplicationState == "SyncTarget" {
				return false
			}
		}
		v := n.resource.volume
		v.mu.Lock()
		quiet := v.log.empty() && v.barrier == nil
		v.mu.Unlock()
		if !quiet {
			return false
		}
	}
	return true
}

// converged wants all in sync, equal and free of whatever an interruption could have left.
func (c *testCluster) converged(primary string) {
	c.t.Helper()
	c.wait("all in sync", c.allInSync)
	c.write(primary, 7*bitmap.BlockBytes, randomBytes(bitmap.BlockBytes))
	c.flush(primary)
	c.wait("nothing left to do", c.settled)
	for name, n := range c.nodes {
		if left := n.resource.Volume().Left(); left != "" {
			c.t.Errorf("%s: %s", name, left)
		}
	}
	c.equal()
}

// scatter makes work for a resync: blocks here and there, a long run, and zeroes.
func (c *testCluster) scatter(name string) {
	c.t.Helper()
	for i := range uint64(6) {
		c.write(name, (i*37%8)*bitmap.ExtentBytes+(i+1)*5*bitmap.BlockBytes, randomBytes(bitmap.BlockBytes))
	}
	c.write(name, 9<<20, randomBytes(1<<20+bitmap.BlockBytes))
	c.write(name, 20<<20, make([]byte, 8*bitmap.BlockBytes))
}

// again promotes a node as soon as it may be.
func (c *testCluster) again(name string) {
	c.t.Helper()
	c.wait(name+" is promoted", func() bool { return c.nodes[name].resource.Promote(c.t.Context()) == nil })
}

// blows are what a strike does besides the lost link, in a resync of b by a.
var blows = map[string]func(c *testCluster){
	"link lost":     func(*testCluster) {},
	"target killed": func(c *testCluster) { c.crash("b"); c.start("b") },
	"source killed": func(c *testCluster) { c.crash("a"); c.start("a"); c.again("a") },
}

// everyStrike runs act again and again, with a strike at each frame from one node to another in turn, until it ends before
// the frame comes. It returns how many frames there were.
func (c *testCluster) everyStrike(from, to string, counts func(FrameType) bool, act func(s *strike)) int64 {
	for frame := rand.Int64N(strikeStride); ; frame += strikeStride {
		s := &strike{from: from, to: to, counts: counts, before: frame}
		act(s)
		if c.t.Failed() {
			c.t.Fatalf("after frame %d from %s", frame, from)
		}
		if !s.happened() {
			return frame
		}
		if frame >= 500 {
			c.t.Fatal("it does not end")
		}
	}
}

// DRBD's resync-interrupt-variants and resync-finish: the link is lost, or one end dies, at every single message of a
// resync, with the handshake before it and the barrier behind it. It goes on, and all replicas end in sync and equal.
func TestResyncInterruptVariants(t *testing.T) {
	for blow, deal := range blows {
		for _, from := range []string{"a", "b"} {
			for _, compare := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, frames of %s, comparing %v", blow, from, compare), func(t *testing.T) {
					t.Parallel()
					c := newTestCluster(t, "a", "b")
					c.tweak = func(r *Resource) { r.volume.resyncs.compare = compare }
					c.promote("a")
					c.change("a", ResyncChange{CompareAlways: &compare})
					c.writeSome("a", 20)
					count := c.everyStrike(from, map[string]string{"a": "b", "b": "a"}[from], mattersToResync, func(s *strike) {
						c.crash("b")
						c.scatter("a")
						c.await(s)
						c.start("b")
						c.wait("the strike, or the end", func() bool { return s.happened() || c.allInSync() })
						if !s.happened() {
							c.flush("a")
							c.wait("the strike, or the very end", func() bool { return s.happened() || c.settled() })
						}
						if s.happened() {
							deal(c)
						}
						c.converged("a")
					})
					if t.Logf("%d frames", count); count < 20 {
						t.Error("that is no resync")
					}
				})
			}
		}
	}
}

// numbered are writes of one block each that carry a number, one after the other for each block.
type numbered struct {
	mu          sync.Mutex
	last        uint64
	sent, acked map[uint64]uint64 // by block
}

func numberedBlock(number uint64) []byte {
	p := make([]byte, bitmap.BlockBytes)
	for at := 0; at < len(p); at += 8 {
		binary.LittleEndian.PutUint64(p[at:], number)
	}
	return p
}

// run writes until stop is closed or a write fails.
func (w *numbered) run(v *Volume, blocks []uint64, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		block := blocks[i%len(blocks)]
		w.mu.Lock()
		w.last++
		number := w.last
		w.sent[block] = number
		w.mu.Unlock()
		done := make(waitCompletion, 1)
		v.Write(numberedBlock(number), block*bitmap.BlockBytes, false, nil, done)
		select {
		case err := <-done:
			if err != nil {
				return
			}
		case <-stop:
			return
		}
		w.mu.Lock()
		w.acked[block] = number
		w.mu.Unlock()
	}
}

// check wants every block to hold the newest acknowledged write, or one that was sent after it.
func (w *numbered) check(c *testCluster, name string) {
	c.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for block, sent := range w.sent {
		p := make([]byte, bitmap.BlockBytes)
		if err := c.tryRead(name, block*bitmap.BlockBytes, p); err != nil {
			c.t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint64(p); w.acked[block] > 0 && (got < w.acked[block] || got > sent) {
			c.t.Errorf("block %d on %s holds write %d; %d is acknowledged, %d was the last", block, name, got, w.acked[block], sent)
		}
	}
}

// writing writes to the blocks that scatter writes to, by several clients, until the result is called.
func (c *testCluster) writing(name string) (w *numbered, end func()) {
	w = &numbered{sent: map[uint64]uint64{}, acked: map[uint64]uint64{}}
	v, stop := c.nodes[name].resource.Volume(), make(chan struct{})
	var writers sync.WaitGroup
	for client := range uint64(3) {
		var blocks []uint64
		for i := range uint64(2) {
			i = 2*client + i
			blocks = append(blocks, (i*37%8)*blocksPerExtent+(i+1)*5, 9<<8+i*20, 20<<8+i)
		}
		writers.Go(func() { w.run(v, blocks, stop) })
	}
	return w, func() { close(stop); writers.Wait() }
}

// DRBD's resync-interrupt-conflict and write-during-resync: the same while the application writes to the very blocks that are
// copied. No acknowledged write is lost, and nothing waits for ever.
func TestResyncInterruptConflict(t *testing.T) {
	for blow, deal := range blows {
		for _, from := range []string{"a", "b"} {
			t.Run(blow+", frames of "+from, func(t *testing.T) {
				t.Parallel()
				c := newTestCluster(t, "a", "b")
				c.promote("a")
				c.writeSome("a", 20)
				count := c.everyStrike(from, map[string]string{"a": "b", "b": "a"}[from], onlyResync, func(s *strike) {
					c.crash("b")
					c.scatter("a")
					w, end := c.writing("a")
					c.await(s)
					c.start("b")
					c.wait("the strike, or the end", func() bool { return s.happened() || c.allInSync() })
					if s.happened() {
						deal(c)
						c.wait("all in sync under writes", c.allInSync)
					}
					end()
					c.converged("a")
					w.check(c, "a")
				})
				t.Logf("%d frames", count)
			})
		}
	}
}

// DRBD's toggle-disk, interrupted: the Primary's disk comes back again and again while the application writes, and the Primary
// dies at each message of the resync. Whoever is in sync then takes over.
func TestToggleDiskInterrupted(t *testing.T) {
	for _, from := range []string{"a", "b"} {
		t.Run("frames of "+from, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.writeSome("a", 20)
			count := c.everyStrike(from, map[string]string{"a": "b", "b": "a"}[from], ofPull, func(s *strike) {
				c.wait("all in sync after the last", c.settled)
				c.detach("a")
				c.scatter("a")
				w, end := c.writing("a")
				c.await(s)
				attached := make(chan error, 1)
				go func() { attached <- c.reattach("a") }()
				c.wait("the strike, or the end", func() bool { return s.happened() || c.allInSync() })
				primary := "a"
				if s.happened() {
					c.crash("a")
				}
				if err := <-attached; err != nil && !s.happened() {
					t.Fatal(err)
				}
				end()
				if s.happened() {
					if !strings.Contains(c.inSync(), "a") {
						primary = "b"
					}
					c.start("a")
					c.again(primary)
				}
				c.converged(primary)
				w.check(c, primary)
				c.handOver(primary, "a")
			})
			if t.Logf("%d frames", count); count < 8 {
				t.Error("that is no resync")
			}
		})
	}
}
