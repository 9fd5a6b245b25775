package tests

import (
	"encoding/json"
	"strings"
	"testing"

	"duet/tests/cluster"
)

// checked is what is read of `duet md check --json`.
type checked struct {
	Usable   bool
	Findings []struct{ Where, Consequence string }
	Remake   []struct{ Node, Command string }
}

// checkMetadata runs `duet md check`, which must end with the exit status.
func (s *scenario) checkMetadata(n *cluster.Node, exit int) *checked {
	s.t.Helper()
	result, err := n.Command(s.t.Context(), "md", "check", "r0", "--json")
	if err != nil || result.ExitCode != exit {
		s.t.Fatalf("md check: %v, %+v", err, result)
	}
	var found checked
	if err := json.Unmarshal([]byte(result.Stdout), &found); err != nil {
		s.t.Fatalf("%v: %s", err, result.Stdout)
	}
	return &found
}

// remake runs the commands that `duet md check` names.
func (s *scenario) remake(found *checked) {
	s.t.Helper()
	for _, step := range found.Remake {
		s.t.Logf("%s# %s", step.Node, step.Command)
		n, arguments := s.Node(step.Node), strings.Fields(step.Command)[1:]
		if arguments[0] == "run" {
			s.restart(n)
			continue
		}
		s.duet(n, arguments...)
	}
}

// Metadata can be looked at while the daemon is stopped and not while it runs; what is damaged is told, and a replica whose metadata are
// lost comes back by the commands that the check names, with all data.
func TestMetadataInspected(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	a, b := s.Node("a"), s.Node("b")
	r := newRecorder(0, 4096)
	l := r.begin(t, a.URI("r0"))
	l.waitWrites(t, 200)
	for _, command := range []string{"check", "dump"} {
		result, err := b.Command(t.Context(), "md", command, "r0")
		if err != nil || result.ExitCode != 1 || result.Stdout != "" || !strings.Contains(result.Stderr, "is locked") {
			t.Errorf("md %s while the daemon runs: %v, %+v", command, err, result)
		}
	}
	s.stop(b)
	if text := s.duet(b, "md", "check", "r0"); !strings.Contains(text, "are right") {
		t.Errorf("check of a replica that was left in good order: %s", text)
	}
	s.overwrite(s.metadata("b", "r0"), 100, 8)
	if found := s.checkMetadata(b, 1); !found.Usable || len(found.Findings) != 1 || len(found.Remake) > 0 {
		t.Errorf("one superblock copy torn: %+v", found)
	}
	s.restart(b)
	s.inSync("r0")
	s.kill(b)
	if text := s.duet(b, "md", "dump", "r0"); !strings.Contains(text, "left open") || !strings.Contains(text, "hot extents") {
		t.Errorf("dump of a replica that was left by a crash: %s", text)
	}
	s.overwrite(s.metadata("b", "r0"), 0, 8192)
	lost := s.checkMetadata(b, 1)
	if lost.Usable {
		t.Errorf("both superblock copies torn: %+v", lost)
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	s.remake(lost)
	s.inSync("r0")
	r.verify(t, a.URI("r0"))
	s.identical("r0")
}

// The only replica that was in sync loses its metadata when it was killed as Primary: its data come back all the same.
func TestMetadataOfTheOnlyCopyRemade(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	a, b := s.Node("a"), s.Node("b")
	r := newRecorder(0, 4096)
	l := r.begin(t, a.URI("r0"))
	l.waitWrites(t, 100)
	s.stop(b)
	s.inSyncAre(a, "a")
	l.waitWrites(t, 100)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	s.kill(a)
	s.overwrite(s.metadata("a", "r0"), 0, 8192)
	lost := s.checkMetadata(a, 1)
	if err := b.Run(); err != nil {
		t.Fatal(err)
	}
	s.remake(lost)
	s.inSync("r0")
	r.verify(t, a.URI("r0"))
	s.identical("r0")
}
