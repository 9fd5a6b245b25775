package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"duet/tests/cluster"
)

// hasSize waits until all data nodes say that r0 has this size.
func (s *scenario) hasSize(mib uint64) {
	s.t.Helper()
	for _, n := range s.DataNodes() {
		s.until(n, "r0", fmt.Sprintf("%d MiB on %s", mib, n.Name), func(r *cluster.Resource) error {
			if len(r.Devices) == 0 || r.Devices[0].SizeKiB != mib<<10 {
				return fmt.Errorf("the devices are %+v", r.Devices)
			}
			return nil
		})
	}
}

// writeBehind writes what a client that connects now sees behind the former end, and returns what it wrote.
func (s *scenario) writeBehind(n *cluster.Node, mib uint64) *recorder {
	s.t.Helper()
	r := newRecorder(mib<<20/blockBytes, 2048)
	l := r.begin(s.t, n.URI("r0"))
	l.waitWrites(s.t, 200)
	if err := l.end(); err != nil {
		s.t.Fatal(err)
	}
	return r
}

// A device grows under load: no error, no pause to speak of; clients that connect anew see the new size and write there; the replicas are
// identical, all of them stay in sync, and their metadata are sound.
func TestResizeUnderLoad(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	primary, secondary := s.Node("a"), s.Node("b")
	r := newRecorder(0, 16384)
	l := r.begin(t, primary.URI("r0"))
	l.waitWrites(t, 300)
	before := s.until(primary, "r0", "its generation", func(*cluster.Resource) error { return nil }).Generation
	recorders := []*recorder{r}
	former := uint64(64)
	for i, mib := range []uint64{256, 4096} {
		l.markPause()
		asked := s.Nodes[len(s.Nodes)-1-i] // the witness, and the Secondary: any node will do
		t.Logf("%s", s.duet(asked, "resize", "r0", "--size", fmt.Sprintf("%dMiB", mib)))
		l.waitWrites(t, 300)
		t.Logf("grown to %d MiB: longest pause %v", mib, l.pause())
		s.hasSize(mib)
		recorders = append(recorders, s.writeBehind(primary, former), s.writeBehind(primary, mib-8))
		former = mib
	}
	after := s.until(primary, "r0", "its generation", func(*cluster.Resource) error { return nil })
	if after.Generation != before+2 || len(after.InSync) != 2 {
		t.Errorf("generation %d, then %d with %v: a replica left the set", before, after.Generation, after.InSync)
	}
	s.verify(primary, 0)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.duet(primary, "resource", "show", "r0"), "4GiB") {
		t.Error("resource show does not know the size")
	}
	s.kill(secondary)
	s.checkMetadata(secondary, 0)
	recorders = append(recorders, s.writeBehind(primary, 100))
	s.restart(secondary)
	s.inSync("r0")
	s.duet(primary, "secondary", "r0")
	s.promote(secondary, "r0")
	for _, r := range recorders {
		r.verify(t, secondary.URI("r0"))
	}
	s.identical("r0")
	s.stop(primary)
	s.checkMetadata(primary, 0)
}

// The Secondary is killed at some moment of a growth, then the Primary: whatever became of it, the next attempt is the last that
// is needed, the sizes are equal, no acknowledged write is lost, and the replicas are identical.
func TestKilledWhileGrowing(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	primary, secondary := s.Node("a"), s.Node("b")
	r := newRecorder(0, 8192)
	mib, tries, done := uint64(64), 0, 0
	recorders := []*recorder{r}
	for _, kill := range []string{"Secondary", "Primary"} {
		for _, writes := range []int{0, 200, 400, 600, 700, 800, 900, 1000, 1200, 1500} {
			l := r.begin(t, primary.URI("r0"))
			l.waitWrites(t, 50)
			wanted := fmt.Sprintf("%dMiB", mib+64)
			grown := make(chan cluster.Result, 1)
			go func() { grown <- s.outcome(s.Node("witness"), "resize", "r0", "--size", wanted, "--timeout", "5s") }()
			victim := secondary
			if kill == "Primary" {
				victim = primary
			}
			if writes > 0 {
				l.waitWrites(t, writes)
			}
			s.kill(victim)
			result := <-grown
			t.Logf("%s killed after %d writes: %d %s", kill, writes, result.ExitCode, strings.TrimSpace(result.Stderr))
			if tries++; result.ExitCode == 0 {
				done++
			}
			if kill == "Primary" {
				<-l.done
				s.promote(secondary, "r0")
				primary, secondary = secondary, primary
				r.verify(t, primary.URI("r0"))
			} else {
				l.waitWrites(t, 50)
				if err := l.end(); err != nil {
					t.Fatalf("%s killed after %d writes: %v", kill, writes, err)
				}
			}
			s.restart(victim)
			s.inSync("r0")
			if again := s.outcome(primary, "resize", "r0", "--size", wanted); again.ExitCode != 0 && !strings.Contains(again.Stderr, "can only grow") {
				t.Fatalf("again: %+v", again)
			}
			former := mib
			mib += 64
			s.hasSize(mib)
			recorders = append(recorders, s.writeBehind(primary, former))
		}
	}
	s.inSync("r0")
	s.verify(primary, 0)
	for _, r := range recorders {
		r.verify(t, primary.URI("r0"))
	}
	s.identical("r0")
	t.Logf("%d of %d growths were committed before the kill", done, tries)
}

// outcome is what a command that may fail says.
func (s *scenario) outcome(n *cluster.Node, arguments ...string) cluster.Result {
	result, err := n.Command(context.WithoutCancel(s.t.Context()), arguments...)
	if err != nil {
		result.ExitCode, result.Stderr = -1, err.Error()
	}
	return result
}

// Where the disks hold something behind the device, it is copied from the Primary when the device grows, unless the operator says that
// it is the same everywhere.
func TestResizeOfDisksThatDiffer(t *testing.T) {
	s := start(t)
	for _, n := range s.DataNodes() {
		s.long(n.Name, "r0", 256<<20, 100<<20)
	}
	s.create("r0", "64MiB", "--force")
	primary := s.Node("a")
	r := newRecorder(0, 8192)
	l := r.begin(t, primary.URI("r0"))
	l.waitWrites(t, 100)
	t.Logf("%s", s.duet(primary, "resize", "r0", "--size", "128MiB"))
	s.hasSize(128)
	s.inSync("r0")
	behind := s.writeBehind(primary, 120)
	for _, name := range []string{"a", "b"} {
		s.damage(name, 150<<20, []byte("the same"))
	}
	s.duet(primary, "resize", "r0", "--size", "192MiB", "--assume-clean")
	s.hasSize(192)
	s.inSyncAre(primary, "a", "b")
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	s.verify(primary, 0)
	r.verify(t, primary.URI("r0"))
	behind.verify(t, primary.URI("r0"))
}

// long makes a disk that is larger than its device is going to be, with something of its own at an offset.
func (s *scenario) long(node, resource string, sizeBytes, at int64) {
	s.t.Helper()
	f, err := os.Create(s.Disk(node, resource))
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("left on the disk of "+node), at)
	if err := errors.Join(f.Truncate(sizeBytes), err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
}

// What can't grow says why, in one line, and stays as it is.
func TestResizeRefused(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	primary, secondary := s.Node("a"), s.Node("b")
	s.duet(primary, "resource", "create", "r1", "--size", "64MiB", "--metadata", "internal",
		"--on", "a="+s.Disk("a", "r1"), "--on", "b="+s.Disk("b", "r1"))
	refuse := func(exit int, words string, arguments ...string) {
		t.Helper()
		result := s.outcome(primary, append([]string{"resize"}, arguments...)...)
		if result.ExitCode != exit || !strings.Contains(result.Stderr, words) {
			t.Errorf("resize %v: %+v", arguments, result)
		}
	}
	refuse(1, "r0 has 64MiB and can only grow", "r0", "--size", "32MiB")
	refuse(1, "r0 has 64MiB and can only grow", "r0", "--size", "64MiB")
	refuse(2, "multiple of 4 KiB", "r0", "--size", "100000001")
	refuse(1, "at the end of the disk", "r1", "--size", "128MiB")
	refuse(1, "there is no resource r2", "r2", "--size", "128MiB")
	s.kill(secondary)
	s.inSyncAre(primary, "a")
	refuse(1, "b is not in sync", "r0", "--size", "128MiB")
	s.restart(secondary)
	s.inSync("r0")
	s.hasSize(64)
	for _, n := range s.DataNodes() {
		if info, err := os.Stat(s.Disk(n.Name, "r0")); err != nil || info.Size() != 64<<20 {
			t.Errorf("the disk of %s was changed: %v, %v", n.Name, info.Size(), err)
		}
	}
}
