package tests

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"duet/internal/control"
	"duet/tests/cluster"
)

// switchovers is how often the role goes to the other node.
const switchovers = 50

// The role goes back and forth under a load whose clients connect again when they are cut off. No write is lost, no client gets an
// error, nobody leaves the in-sync set. The times are printed: of the clients from the last write that the old Primary acknowledged to
// the first on the new one, and of the steps in that.
func TestSwitchoversUnderLoad(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	nodes := s.DataNodes()
	r := newRecorder(0, 16384)
	l, reconnects := r.roam(t, nodes[0].URI("r0"), nodes[1].URI("r0"))
	l.waitWrites(t, 200)
	var pause, drain, commit, promote, total []float64
	for i := range switchovers {
		to := nodes[(i+1)%2]
		r.markPause()
		// Sometimes the Primary is told, sometimes the target, sometimes the witness, and not always which node it is to be.
		arguments := []string{"switch", "r0", "--json"}
		if i%2 == 0 {
			arguments = append(arguments, "--to", to.Name)
		}
		var result control.SwitchResult
		if err := json.Unmarshal([]byte(s.duet(s.Nodes[i%3], arguments...)), &result); err != nil {
			t.Fatal(err)
		}
		if result.To != to.Name || result.Already {
			t.Fatalf("switched to %s: %+v", to.Name, result)
		}
		l.waitWrites(t, 100)
		pause = append(pause, float64(r.pause().Microseconds())/1000)
		drain, commit = append(drain, result.DrainMS), append(commit, result.CommitMS)
		promote, total = append(promote, result.PromoteMS), append(total, result.TotalMS)
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name  string
		times []float64
	}{{"clients without an answer", pause}, {"drain", drain}, {"commit", commit}, {"promote", promote}, {"total", total}} {
		slices.Sort(step.times)
		t.Logf("%-26s median %6.1f ms, p99 %6.1f ms", step.name, step.times[len(step.times)/2], step.times[len(step.times)*99/100])
	}
	t.Logf("%d writes, %d connections of %d clients", r.count(), reconnects.Load(), r.workers)
	s.neverLeftTheSet("r0")
	s.inSync("r0")
	r.verify(t, nodes[switchovers%2].URI("r0"))
	s.identical("r0")
}

// neverLeftTheSet checks that history knows of creation, promotion and switchovers only.
func (s *scenario) neverLeftTheSet(resource string) {
	s.t.Helper()
	var record control.ResourceRecord
	if err := json.Unmarshal([]byte(s.duet(s.Nodes[0], "resource", "show", resource, "--json")), &record); err != nil {
		s.t.Fatal(err)
	}
	for _, note := range record.History {
		if !slices.Contains([]string{"create", "promote", "switch"}, note.Kind) {
			s.t.Errorf("generation %d is %q: %s", note.Generation, note.Kind, note.Reason)
		}
	}
}

// Either node may be killed while the role is handed over. Whoever is left goes on, with everything that was acknowledged.
func TestDeathDuringASwitchover(t *testing.T) {
	for _, victim := range []string{"a", "b"} {
		t.Run(victim, func(t *testing.T) {
			s := start(t)
			s.create("r0", "64MiB")
			a, b := s.Node("a"), s.Node("b")
			r := newRecorder(0, 4096)
			l, _ := r.roam(t, a.URI("r0"), b.URI("r0"))
			for round := range 3 {
				l.waitWrites(t, 200)
				from, to := a, b
				if s.primaryOf(a) == "b" {
					from, to = b, a
				}
				dies, heir := from, to
				if victim == "b" {
					dies, heir = to, from
				}
				over := make(chan error, 1)
				go func() { // ends with the command
					_, err := s.Node("witness").Command(t.Context(), "switch", "r0", "--to", to.Name)
					over <- err
				}()
				delay := time.NewTimer(time.Duration(round*15) * time.Millisecond)
				<-delay.C
				s.kill(dies)
				if err := <-over; err != nil {
					t.Fatal(err)
				}
				s.promote(heir, "r0")
				l.waitWrites(t, 100)
				s.restart(dies)
				s.inSync("r0")
			}
			if err := l.end(); err != nil {
				t.Fatal(err)
			}
			r.verify(t, s.Node(s.primaryOf(a)).URI("r0"))
			s.identical("r0")
		})
	}
}

// primaryOf is who is Primary of r0, as a node knows it.
func (s *scenario) primaryOf(n *cluster.Node) string {
	s.t.Helper()
	status := s.until(n, "r0", "a Primary", func(r *cluster.Resource) error {
		if r.Primary == "" {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	return status.Primary
}
