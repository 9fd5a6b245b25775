package tests

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"duet/tests/cluster"
)

// copyDisk keeps what a node's disk holds now.
func (s *scenario) copyDisk(n *cluster.Node) string {
	s.t.Helper()
	from, err := os.Open(s.Disk(n.Name, "r0"))
	if err != nil {
		s.t.Fatal(err)
	}
	to, err := os.Create(filepath.Join(s.t.TempDir(), n.Name+".img"))
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = io.Copy(to, from)
	for _, err := range []error{err, from.Close(), to.Close()} {
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return to.Name()
}

// refuses runs a command that must fail with a reason.
func (s *scenario) refuses(n *cluster.Node, reason string, arguments ...string) {
	s.t.Helper()
	result, err := n.Command(s.t.Context(), arguments...)
	if err != nil {
		s.t.Fatal(err)
	}
	if result.ExitCode != 1 || !strings.Contains(result.Stderr, reason) {
		s.t.Fatalf("duet %v on %s: exit status %d, %q, want %q", arguments, n.Name, result.ExitCode, result.Stderr, reason)
	}
}

// force makes a node Primary by force, once the cluster has noticed that the Primary is gone.
func (s *scenario) force(n *cluster.Node) {
	s.t.Helper()
	s.until(n, "r0", "the forced promotion", func(r *cluster.Resource) error {
		if r.Role == "Primary" {
			return nil
		}
		_, err := n.MustSucceed(s.t.Context(), "primary", "r0", "--force", "--yes")
		return err
	})
}

// splitBrain waits until a node says that it and the peer are two sides of a split.
func (s *scenario) splitBrain(n, peer *cluster.Node) {
	s.t.Helper()
	s.until(n, "r0", "the split brain", func(r *cluster.Resource) error {
		if p := r.Peer(peer.Name); p == nil || p.ConnectionState != "SplitBrain" || !strings.Contains(r.Verdict, "split brain") {
			return fmt.Errorf("%+v: %s", p, r.Verdict)
		}
		return nil
	})
	if events := s.duet(n, "events"); !strings.Contains(events, "split-brain") {
		s.t.Errorf("%s has no event of it: %s", n.Name, events)
	}
}

// divided is a cluster whose node a was alone in sync when it was killed under load, and whose node b was then forced to be
// Primary and has other writes. It returns what each side holds.
func divided(t *testing.T) (s *scenario, onA, onB *recorder, diskA string) {
	s = start(t)
	s.create("r0", "64MiB")
	a, b := s.Node("a"), s.Node("b")
	onA, onB = newRecorder(0, 8192), newRecorder(4096, 12288)
	l := onA.begin(t, a.URI("r0"))
	l.waitWrites(t, 200)
	s.kill(b)
	s.inSyncAre(a, "a")
	l.waitWrites(t, 300)
	s.kill(a)
	<-l.done
	diskA = s.copyDisk(a)

	s.restart(b)
	s.refuses(b, "not in sync", "primary", "r0")
	s.force(b)
	l = onB.begin(t, b.URI("r0"))
	l.waitWrites(t, 300)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	return s, onA, onB, diskA
}

// A node that lacks acknowledged writes becomes Primary only by force. When the one that has them returns, both say that there
// is a split, and neither is overwritten, nor gets writes, whichever restarts.
func TestForcedPromotionSplits(t *testing.T) {
	s, _, onB, diskA := divided(t)
	a, b := s.Node("a"), s.Node("b")
	s.refuses(b, "is Primary of r0 already", "primary", "r0", "--force", "--yes")
	if shown := s.duet(b, "resource", "show", "r0", "--json"); !strings.Contains(shown, `"forced": true`) {
		t.Errorf("history has no mark: %s", shown)
	}

	s.restart(a)
	s.splitBrain(a, b)
	s.splitBrain(b, a)
	s.refuses(a, "b is Primary of r0", "primary", "r0")
	s.refuses(a, "b is Primary of r0 and can be reached", "primary", "r0", "--force", "--yes")
	l := onB.begin(t, b.URI("r0"))
	l.waitWrites(t, 200)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	s.stop(a)
	s.restart(a)
	s.splitBrain(a, b)
	s.kill(b)
	s.restart(b)
	s.promote(b, "r0")
	s.splitBrain(b, a)
	s.splitBrain(a, b)
	onB.verify(t, b.URI("r0"))
	if err := sameBytes(diskA, s.Disk("a", "r0")); err != nil {
		t.Errorf("the disk of a was touched: %v", err)
	}
	if explained := s.duet(b, "explain", "r0"); !strings.Contains(explained, "SplitBrain") {
		t.Errorf("explain does not name it: %s", explained)
	}
}
