package tests

import (
	"encoding/json"
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
	onB.earlier = onA

	s.restart(b)
	s.refuses(b, "only if that can't be: duet primary r0 --force", "primary", "r0")
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

// given is what tests read of `duet split resolve --json`.
type given struct {
	Losers []struct {
		Name     string  `json:"name"`
		UndoFile string  `json:"undo-file"`
		CopyKiB  *uint64 `json:"copy-KiB"`
	} `json:"losers"`
}

// resolve keeps a side and returns the path of the one loser's undo file.
func (s *scenario) resolve(on *cluster.Node, arguments ...string) string {
	s.t.Helper()
	text := s.duet(on, append([]string{"split", "resolve", "r0", "--json"}, arguments...)...)
	var g given
	if err := json.Unmarshal([]byte(text), &g); err != nil || len(g.Losers) != 1 {
		s.t.Fatalf("%v: %s", err, text)
	}
	return g.Losers[0].UndoFile
}

// undone checks that an undo file gives back what a disk held.
func (s *scenario) undone(n *cluster.Node, undo, want string) {
	s.t.Helper()
	image := filepath.Join(s.t.TempDir(), "former.img")
	s.t.Log(strings.TrimSpace(s.duet(n, "split", "undo", "r0", "--undo-file", undo, "--to", image)))
	if err := sameBytes(want, image); err != nil {
		s.t.Errorf("the undo file of %s does not give back what it held: %v", n.Name, err)
	}
	s.refuses(n, "no image was made", "split", "undo", "r0", "--undo-file", undo, "--to", image)
	s.refuses(n, "no image was made", "split", "undo", "r0", "--undo-file", want, "--to", image+"2")
	if _, err := os.Stat(image + "2"); err == nil {
		s.t.Error("a refused undo left an image")
	}
}

// The forced side is kept: the other one becomes a copy of just what differs, and what it held can be had back, bit by bit.
func TestSplitResolvedForTheForcedSide(t *testing.T) {
	s, _, onB, diskA := divided(t)
	a, b := s.Node("a"), s.Node("b")
	s.refuses(b, "is Primary of r0, and its side", "split", "resolve", "r0", "--keep", "a")
	s.restart(a)
	s.splitBrain(b, a)
	for _, n := range []*cluster.Node{a, b} {
		if shown := s.duet(n, "split", "show", "r0", "--ranges"); !strings.Contains(shown, "only on a:") || !strings.Contains(shown, "only on b:") ||
			strings.Contains(shown, "unknown") || strings.Contains(shown, "do not reach back") {
			t.Errorf("split show on %s:\n%s", n.Name, shown)
		}
	}
	planned := s.duet(b, "split", "resolve", "r0", "--keep", "b", "--dry-run")
	if t.Log(planned); !strings.Contains(planned, "a becomes a copy: up to") {
		t.Errorf("dry run:\n%s", planned)
	}
	s.splitBrain(b, a) // the dry run did nothing
	s.refuses(b, "no such file or directory", "split", "resolve", "r0", "--keep", "b", "--undo-file", "/nowhere/undo")

	undo := filepath.Join(t.TempDir(), "a.undo")
	if got := s.resolve(b, "--keep", "b", "--undo-file", undo); got != undo {
		t.Errorf("the undo file is at %s", got)
	}
	s.inSync("r0")
	onB.verify(t, b.URI("r0"))
	s.identical("r0")
	s.undone(a, undo, diskA)
	if r := s.until(a, "r0", "no more split", func(r *cluster.Resource) error {
		if p := r.Peer("b"); p == nil || p.ConnectionState != "Connected" {
			return fmt.Errorf("%+v", p)
		}
		return nil
	}); r.Peer("b").PeerDevices[0].ReceivedKiB > 60<<10 {
		t.Errorf("%d KiB were copied to a", r.Peer("b").PeerDevices[0].ReceivedKiB)
	}
}

// The side that was in sync is kept: the forced one gives its role up, and what was written since the force can be had back.
func TestSplitResolvedForTheOtherSide(t *testing.T) {
	s, onA, _, diskA := divided(t)
	a, b := s.Node("a"), s.Node("b")
	s.restart(a)
	s.splitBrain(b, a)
	s.refuses(a, "is Primary of r0, and its side", "split", "resolve", "r0", "--keep", "a")
	s.duet(b, "secondary", "r0")
	s.splitBrain(b, a)
	s.refuses(a, "is a side of a split", "primary", "r0", "--force", "--yes")
	diskB := s.copyDisk(b)
	undo := s.resolve(a, "--keep", "a")
	s.refuses(b, "not in sync", "primary", "r0")
	if err := sameBytes(diskA, s.Disk("a", "r0")); err != nil {
		t.Errorf("the disk of a was touched: %v", err)
	}
	s.promote(a, "r0")
	s.inSync("r0")
	onA.verify(t, a.URI("r0"))
	s.identical("r0")
	s.undone(b, undo, diskB)
	l := onA.begin(t, a.URI("r0"))
	l.waitWrites(t, 100)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	s.identical("r0")
}

// Whatever is killed while a split is being resolved, the resolution goes on, and nothing of the losing side is lost: also what the
// application overwrites meanwhile is saved before.
func TestSplitResolutionInterrupted(t *testing.T) {
	s, _, onB, diskA := divided(t)
	a, b := s.Node("a"), s.Node("b")
	s.restart(a)
	s.splitBrain(b, a)
	for _, n := range []*cluster.Node{a, b} {
		s.duet(n, "resync", "set", "r0", "--max-rate", "4MiB")
	}
	undo := s.resolve(b, "--keep", "b")
	underWay := func(n *cluster.Node) {
		t.Helper()
		s.until(n, "r0", "the resync to be under way", func(r *cluster.Resource) error {
			if r.Resync == nil || r.Resync.DoneKiB == 0 {
				return fmt.Errorf("%+v", r.Resync)
			}
			return nil
		})
	}
	for _, victim := range []*cluster.Node{a, b, a} {
		l := onB.begin(t, b.URI("r0"))
		underWay(b)
		l.waitWrites(t, 20)
		s.kill(victim)
		if victim == b {
			<-l.done
		} else if err := l.end(); err != nil {
			t.Fatal(err)
		}
		s.restart(victim)
		if victim == b {
			s.promote(b, "r0")
		}
		s.until(victim, "r0", "the replica", func(*cluster.Resource) error {
			_, err := victim.MustSucceed(t.Context(), "resync", "set", "r0", "--max-rate", "4MiB")
			return err
		})
	}
	underWay(b)
	s.kill(a)
	hidden := undo + ".hidden"
	if err := os.Rename(undo, hidden); err != nil {
		t.Fatal(err)
	}
	s.restart(a)
	s.until(b, "r0", "a to miss its undo file", func(r *cluster.Resource) error {
		if shown := s.duet(b, "split", "show", "r0"); !strings.Contains(shown, "is gone") {
			return fmt.Errorf("split show: %s", shown)
		}
		return nil
	})
	if err := os.Rename(hidden, undo); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*cluster.Node{a, b} {
		s.duet(n, "resync", "set", "r0", "--max-rate", "off")
	}
	s.inSync("r0")
	onB.verify(t, b.URI("r0"))
	s.identical("r0")
	s.undone(a, undo, diskA)
}

// With three replicas the third one, which was in sync neither then nor now, is an ordinary target, and may be Primary of the side
// that was forced when the former Primary returns.
func TestSplitOfThree(t *testing.T) {
	s := start(t, dataNodes(3))
	s.create("r0", "64MiB")
	a, b, c := s.Node("a"), s.Node("b"), s.Node("c")
	onA, onB := newRecorder(0, 8192), newRecorder(4096, 12288)
	l := onA.begin(t, a.URI("r0"))
	l.waitWrites(t, 100)
	s.duet(a, "disconnect", "r0", "c")
	s.inSyncAre(a, "a", "b")
	l.waitWrites(t, 100)
	s.duet(a, "disconnect", "r0", "b")
	s.inSyncAre(a, "a")
	l.waitWrites(t, 100)
	s.kill(a)
	<-l.done
	diskA := s.copyDisk(a)

	s.force(b)
	l = onB.begin(t, b.URI("r0"))
	l.waitWrites(t, 100)
	s.inSyncAre(b, "b", "c")
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	s.duet(b, "secondary", "r0")
	s.promote(c, "r0")
	s.restart(a)
	s.splitBrain(c, a)
	s.splitBrain(a, c)
	s.splitBrain(b, a)
	if err := sameBytes(diskA, s.Disk("a", "r0")); err != nil {
		t.Errorf("the disk of a was touched: %v", err)
	}
	if shown := s.duet(c, "split", "show", "r0"); !strings.Contains(shown, "only on a") {
		t.Errorf("split show:\n%s", shown)
	}
	undo := s.resolve(c, "--keep", "c")
	s.inSync("r0")
	onB.verify(t, c.URI("r0"))
	s.identical("r0")
	s.undone(a, undo, diskA)
}

// A Primary that hangs while another is forced goes on where it stopped when it comes to: its clients are cut off, and what it has is
// the other side of a split.
func TestForcedWhileThePrimaryHangs(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	a, b := s.Node("a"), s.Node("b")
	onA, onB := newRecorder(0, 8192), newRecorder(4096, 12288)
	l := onA.begin(t, a.URI("r0"))
	l.waitWrites(t, 100)
	s.kill(b)
	s.inSyncAre(a, "a")
	l.waitWrites(t, 100)
	if err := a.Freeze(); err != nil {
		t.Fatal(err)
	}
	s.restart(b)
	s.force(b)
	other := onB.begin(t, b.URI("r0"))
	other.waitWrites(t, 100)
	if err := a.Thaw(); err != nil {
		t.Fatal(err)
	}
	<-l.done
	s.splitBrain(a, b)
	s.splitBrain(b, a)
	diskA := s.copyDisk(a)
	undo := s.resolve(a, "--keep", "b")
	s.inSync("r0")
	if err := other.end(); err != nil {
		t.Fatal(err)
	}
	onB.verify(t, b.URI("r0"))
	s.identical("r0")
	if content := s.duet(a, "split", "show", "r0"); !strings.Contains(content, "no split") {
		t.Errorf("split show: %s", content)
	}
	if info, err := os.Stat(undo); err != nil || info.Size() < 8192 || diskA == "" {
		t.Errorf("undo file: %v, %v", info, err)
	}
}

// A disk that a resync has overwritten in part becomes Primary only on the operator's second word. What it has in common with the other
// side nothing tells, so a resolution compares every block.
func TestForcedMixture(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	a, b := s.Node("a"), s.Node("b")
	onA := newRecorder(0, 16384)
	l := onA.begin(t, a.URI("r0"))
	l.waitWrites(t, 100)
	s.kill(b)
	s.inSyncAre(a, "a")
	l.waitWrites(t, 2000)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	s.duet(a, "resync", "set", "r0", "--max-rate", "1MiB")
	s.restart(b)
	s.until(b, "r0", "a resync that is under way", func(r *cluster.Resource) error {
		if r.DiskState() != "Inconsistent" || r.Resync == nil || r.Resync.DoneKiB == 0 {
			return fmt.Errorf("%s, %+v", r.DiskState(), r.Resync)
		}
		return nil
	})
	s.kill(a)
	s.until(b, "r0", "the mixture to be refused", func(*cluster.Resource) error {
		result, err := b.Command(t.Context(), "primary", "r0", "--force", "--yes")
		if err == nil && !strings.Contains(result.Stderr, "a mixture of old and new blocks") {
			err = fmt.Errorf("says %q", result.Stderr)
		}
		return err
	})
	s.duet(b, "primary", "r0", "--force", "--yes", "--accept-inconsistent")
	s.restart(a)
	s.splitBrain(a, b)
	s.duet(b, "secondary", "r0")
	if planned := s.duet(a, "split", "resolve", "r0", "--keep", "a", "--dry-run"); !strings.Contains(planned, "every block is compared") {
		t.Errorf("dry run: %s", planned)
	}
	diskB := s.copyDisk(b)
	undo := s.resolve(a, "--keep", "a")
	s.promote(a, "r0")
	s.inSync("r0")
	onA.verify(t, a.URI("r0"))
	s.identical("r0")
	s.undone(b, undo, diskB)
}
