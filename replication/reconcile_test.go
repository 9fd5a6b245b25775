package replication

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"duet/bitmap"
)

// demote gives the Primary role up.
func (c *testCluster) demote(name string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := c.nodes[name].resource.Demote(ctx); err != nil {
		c.t.Fatal(err)
	}
}

// handOver makes another node Primary, in good order.
func (c *testCluster) handOver(from, to string) {
	c.t.Helper()
	if from != to {
		c.wait(to+" in sync", func() bool { conf := c.committed(); return conf.inSync(to) })
		c.demote(from)
		c.again(to)
	}
}

// halfWritten is a write of a that reached the disks of some replicas when a died, and nobody's acknowledgement.
type halfWritten struct {
	block    uint64
	had      string // who had it, besides a
	evicted  string // who had made bits of its transfer log
	promoted string
	order    string // who returns, in this order; nobody else went down
}

func (h halfWritten) String() string {
	return fmt.Sprintf("also on %q, log evicted on %q, %s promoted, %q return", h.had, h.evicted, h.promoted, h.order)
}

// play is one of DRBD's resync-reconciliation: it ends with all replicas equal, whatever is chosen.
func (h halfWritten) play(c *testCluster) {
	c.t.Helper()
	c.wait("all in sync after the last", c.settled)
	c.write("a", (h.block+9)*bitmap.BlockBytes, randomBytes(bitmap.BlockBytes)) // acknowledged, and not stable
	c.wiring.show(func(f lineFrame) bool {
		if f.from == "a" && f.Type == FrameData && f.Offset == h.block*bitmap.BlockBytes && !strings.Contains(h.had, f.to) {
			<-f.gone
		}
		return false
	})
	content := randomBytes(bitmap.BlockBytes)
	c.nodes["a"].resource.Volume().Write(content, h.block*bitmap.BlockBytes, false, nil, make(waitCompletion, 1))
	for name := range strings.SplitSeq(h.had+"a", "") {
		disk := c.nodes[name].disk
		c.wait(name+" has the write", func() bool {
			disk.mu.Lock()
			defer disk.mu.Unlock()
			return bytes.Equal(disk.p[h.block*bitmap.BlockBytes:][:bitmap.BlockBytes], content)
		})
	}
	for name := range strings.SplitSeq(h.evicted, "") {
		r := c.nodes[name].resource
		if err := r.call(c.t.Context(), r.activityLogFull); err != nil {
			c.t.Fatal(err)
		}
	}
	c.crash("a")
	c.wiring.show(nil)
	for name := range strings.SplitSeq(h.order, "") {
		c.crash(name)
	}
	if c.nodes[h.promoted].resource == nil {
		c.start(h.promoted)
	}
	c.again(h.promoted)
	for name := range strings.SplitSeq(h.order, "") {
		if name != h.promoted {
			c.start(name)
			c.wait(name+" is in sync", func() bool { return c.diskState(name) == "UpToDate" && strings.Contains(c.inSync(), name) })
		}
	}
	c.converged(h.promoted)
	c.handOver(h.promoted, "a")
}

// DRBD's resync-reconciliation, peer-acks and resync-after-primary-crash: survivors at different places of the stream of
// writes when the Primary dies.
func TestResyncReconciliation(t *testing.T) {
	for promoted, orders := range map[string][]string{
		"a": {"a", "abc", "acb"}, "b": {"a", "ac", "ca"}, "c": {"a", "ab", "ba"},
	} {
		t.Run(promoted+" promoted", func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "a", "b", "c")
			c.promote("a")
			block := uint64(3)
			for _, order := range orders {
				for _, had := range []string{"", "b", "c", "bc"} {
					for _, evicted := range []string{"", "b", "c", "bc"} {
						h := halfWritten{block: block, had: had, evicted: evicted, promoted: promoted, order: order}
						h.play(c)
						if block += 20; t.Failed() {
							t.Fatal(h)
						}
					}
				}
			}
		})
	}
}

// afterStrike makes the heir Primary in place of a, which died, and takes a back.
func (c *testCluster) afterStrike(heir string, w *numbered) {
	c.t.Helper()
	c.crash("a")
	c.again(heir)
	if w != nil {
		w.check(c, heir)
	}
	c.write(heir, 25<<20, randomBytes(bitmap.BlockBytes))
	c.start("a")
	c.converged(heir)
	c.handOver(heir, "a")
}

// DRBD's switch-sync-source and, with writes of the application, brief-resync-oos: the Primary dies at every message of a
// resync, and the target goes on from the third replica, which knows of each write that the target may lack.
func TestSwitchSyncSource(t *testing.T) { testSwitchSyncSource(t, false) }

// DRBD's brief-resync-oos.
func TestBriefResyncOos(t *testing.T) { testSwitchSyncSource(t, true) }

func testSwitchSyncSource(t *testing.T, writing bool) {
	for _, from := range []string{"a", "b"} {
		t.Run("frames of "+from, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "a", "b", "c")
			c.promote("a")
			c.writeSome("a", 20)
			count := c.everyStrike(from, map[string]string{"a": "b", "b": "a"}[from], onlyResync, func(s *strike) {
				c.wait("all in sync after the last", c.settled)
				c.crash("b")
				c.scatter("a")
				var w *numbered
				end := func() {}
				if writing {
					w, end = c.writing("a")
				}
				c.await(s)
				c.start("b")
				c.wait("the strike, or the end", func() bool { return s.happened() || c.allInSync() })
				if !s.happened() {
					end()
					c.converged("a")
					return
				}
				c.crash("a")
				end()
				c.afterStrike("c", w)
			})
			if t.Logf("%d frames", count); count < 8 {
				t.Error("that is no resync")
			}
		})
	}
}

// DRBD's resync-missed-end-no-bits: a replica that missed nothing returns, and the link is lost at every message of it.
func TestResyncMissedEndNoBits(t *testing.T) {
	for _, from := range []string{"a", "b"} {
		t.Run("frames of "+from, func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.writeSome("a", 20)
			c.converged("a")
			count := c.everyStrike(from, map[string]string{"a": "b", "b": "a"}[from], mattersToResync, func(s *strike) {
				before := c.committed().Generation
				c.await(s)
				c.wiring.cut("a", "b")
				ended := func() bool { return c.committed().Generation >= before+2 && c.settled() }
				c.wait("the strike, or the end", func() bool { return s.happened() || ended() })
				c.wait("the end", ended)
				if sent := c.sourceSent(); sent != 0 {
					t.Errorf("%d bytes were sent", sent)
				}
				c.converged("a")
			})
			t.Logf("%d frames", count)
		})
	}
}

// hold keeps one frame between two nodes back until the result is called; held is closed when it comes.
func (c *testCluster) hold(from, to string, kind FrameType, passing int) (held <-chan struct{}, release func()) {
	came, goOn := make(chan struct{}), make(chan struct{})
	passed := 0
	c.wiring.show(func(f lineFrame) bool {
		if f.from != from || f.to != to || f.Type != kind {
			return false
		}
		c.mu.Lock()
		passed++
		mine := passed == passing+1
		c.mu.Unlock()
		if mine {
			close(came)
			select {
			case <-goOn:
			case <-f.gone:
			}
		}
		return false
	})
	return came, func() { c.wiring.show(nil); close(goOn) }
}

// DRBD's uuid_send_receive_race: what a node said of itself in the handshake is not so any more when it ends.
func TestUuidSendReceiveRace(t *testing.T) {
	changes := map[string]struct{ change, back func(c *testCluster) }{
		"a member is lost": {
			func(c *testCluster) { c.crash("c"); c.write("a", 1<<20, randomBytes(8192)) },
			func(c *testCluster) { c.start("c") }},
		"another Primary": {
			func(c *testCluster) { c.handOver("a", "c"); c.write("c", 1<<20, randomBytes(8192)) },
			func(c *testCluster) { c.wait("in sync", c.allInSync); c.handOver("c", "a") }},
		"the Primary died": {
			func(c *testCluster) { c.crash("a"); c.again("c"); c.write("c", 1<<20, randomBytes(8192)); c.start("a") },
			func(c *testCluster) { c.wait("in sync", c.allInSync); c.handOver("c", "a") }},
	}
	for name, tt := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "a", "b", "c")
			c.promote("a")
			for _, frame := range []struct {
				from, to string
				kind     FrameType
			}{{"a", "b", FrameHello}, {"b", "a", FrameHelloReply}} {
				for connection := range 2 {
					c.wait("in sync", c.allInSync)
					c.crash("b")
					c.scatter("a")
					held, release := c.hold(frame.from, frame.to, frame.kind, connection)
					c.start("b")
					<-held
					tt.change(c)
					release()
					tt.back(c)
					c.converged("a")
				}
			}
		})
	}
}

// DRBD's connect-abort: a handshake that hangs keeps no other node from being promoted and from serving.
func TestConnectAbort(t *testing.T) {
	names := []string{"a", "b", "c"}
	for _, promoted := range names {
		for _, kind := range []FrameType{FrameHello, FrameHelloReply} {
			t.Run(promoted+" promoted, "+kind.String()+" hangs", func(t *testing.T) {
				t.Parallel()
				c := newTestCluster(t, names...)
				pair := without(slices.Clone(names), promoted)
				from, to := pair[0], pair[1]
				if kind == FrameHelloReply {
					from, to = to, from
				}
				c.crash(pair[1])
				held, release := c.hold(from, to, kind, 0)
				defer release()
				c.start(pair[1])
				<-held
				c.promote(promoted)
				c.write(promoted, 8192, randomBytes(4096))
				if conf := c.committed(); len(conf.InSync) != 3 {
					t.Errorf("in sync are %v", conf.InSync)
				}
			})
		}
	}
}

// A write waits for its extent on a Secondary, which meanwhile promises a generation without b: whichever of the two comes
// first, the Secondary knows afterwards that b lacks the block.
func TestColdWriteDuringAPromise(t *testing.T) {
	c := newTestCluster(t, "a", "b", "c")
	c.promote("a")
	c.write("a", 0, randomBytes(bitmap.BlockBytes))
	c.flush("a")
	c.wait("nothing left to do", c.settled)
	third := c.nodes["c"]
	syncs := make(chan chan struct{})
	hold := func(operation string) error {
		if operation == "sync" {
			goOn := make(chan struct{})
			select {
			case syncs <- goOn:
				<-goOn
			case <-t.Context().Done():
			}
		}
		return nil
	}
	third.meta.fault.Store(&hold)
	const block = 5 * bitmap.ExtentBytes / bitmap.BlockBytes
	written := make(waitCompletion, 1)
	c.nodes["a"].resource.Volume().Write(randomBytes(bitmap.BlockBytes), block*bitmap.BlockBytes, false, nil, written)
	log := <-syncs // the activity log of c
	c.crash("b")
	c.wait("b to be removed", func() bool { conf := c.committed(); return !conf.inSync("b") })
	c.wait("c to adopt it", func() bool {
		third.resource.volume.mu.Lock()
		defer third.resource.volume.mu.Unlock()
		return third.resource.volume.outside != 0
	})
	close(log)
	none := func(string) error { return nil }
	third.meta.fault.Store(&none)
	go func() {
		for t.Context().Err() == nil { // what began to wait before
			select {
			case goOn := <-syncs:
				close(goOn)
			case <-t.Context().Done():
			}
		}
	}()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	c.flush("a")
	c.wait("the log to be empty", func() bool {
		third.resource.volume.mu.Lock()
		defer third.resource.volume.mu.Unlock()
		return third.resource.volume.log.empty()
	})
	start, _, ok := third.resource.local.store.NextDirty(1, block)
	if !ok || start != block {
		t.Errorf("nothing says that b lacks block %d", block)
	}
}
