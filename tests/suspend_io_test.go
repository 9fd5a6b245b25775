package tests

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"duet/tests/cluster"
)

// disks reads the backing disks of all data nodes, as a snapshot of each would.
func (s *scenario) disks() [][]byte {
	s.t.Helper()
	var all [][]byte
	for _, n := range s.DataNodes() {
		content, err := os.ReadFile(s.Disk(n.Name, "r0"))
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, content)
	}
	return all
}

// While requests are suspended the disks of both nodes are equal and stay as they are, and what they hold is what was promised;
// the load waits without an error, and goes on.
func TestSuspendedDisksAreEqual(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	primary := s.Node("a")
	r := newRecorder(0, 4096)
	l := r.begin(t, primary.URI("r0"))
	for range 5 {
		l.waitWrites(t, 300)
		s.duet(primary, "suspend-io", "r0", "--flush", "--for", "1m")
		acknowledged := r.count()
		first := s.disks()
		status := s.until(primary, "r0", "it to be suspended", func(r *cluster.Resource) error {
			if !r.Suspended || r.SuspendedBy != "user" {
				return fmt.Errorf("suspended: %v, by %s", r.Suspended, r.SuspendedBy)
			}
			return nil
		})
		second := s.disks()
		for i := range first {
			if !bytes.Equal(first[i], first[0]) || !bytes.Equal(second[i], first[0]) {
				t.Fatalf("the disks differ, or changed meanwhile: %+v", status)
			}
		}
		if now := r.count(); now != acknowledged {
			t.Fatalf("%d writes were acknowledged meanwhile", now-acknowledged)
		}
		if err := r.checkImage(first[0]); err != nil {
			t.Fatal(err)
		}
		s.duet(primary, "resume-io", "r0")
	}
	l.waitWrites(t, 100)
	s.duet(primary, "suspend-io", "r0", "--for", "300ms")
	l.waitWrites(t, 100)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	t.Logf("longest pause %v", r.pause())
	r.verify(t, primary.URI("r0"))
	s.identical("r0")
}

// checkImage judges a snapshot of a disk without taking it for what is expected from then on.
func (r *recorder) checkImage(image []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for block, h := range r.blocks {
		number, err := readBlock(image[block*blockBytes:][:blockBytes], block)
		if err != nil {
			return err
		}
		judged := blockHistory{h.acknowledged, h.unanswered}
		if err := judged.settle(block, number); err != nil {
			return err
		}
	}
	return nil
}

// A peer may die and the daemon may be told to end while requests wait: the one changes nothing, the other ends quickly and in good
// order, and the next start knows of no suspension.
func TestStopWhileSuspended(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	primary := s.Node("a")
	r := newRecorder(0, 4096)
	l := r.begin(t, primary.URI("r0"))
	l.waitWrites(t, 200)
	s.duet(primary, "suspend-io", "r0")
	s.kill(s.Node("b"))
	s.inSyncAre(primary, "a")
	if status, err := primary.Resource(t.Context(), "r0"); err != nil || !status.Suspended {
		t.Fatalf("%+v, %v", status, err)
	}
	s.restart(s.Node("b"))
	s.duet(primary, "resume-io", "r0")
	s.inSync("r0")
	l.waitWrites(t, 100)

	s.duet(primary, "suspend-io", "r0", "--flush")
	began := time.Now()
	s.within(settleTimeout, func(ctx context.Context) error { return primary.Stop(ctx) })
	t.Logf("stopped in %v", time.Since(began))
	<-l.done
	if l.err == nil {
		t.Error("a load went on without its server")
	}
	s.restart(primary)
	s.promote(primary, "r0")
	s.inSync("r0")
	if status, err := primary.Resource(t.Context(), "r0"); err != nil || status.Suspended {
		t.Fatalf("%+v, %v", status, err)
	}
	r.verify(t, primary.URI("r0"))
	s.identical("r0")
}
