package quorum

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lostMajority makes the directories of a, b and w, which were a cluster with resource r, Primary on a; all are stopped.
func lostMajority(t *testing.T) (dir string, p *ports) {
	t.Helper()
	dir, p = t.TempDir(), &ports{at: map[string]string{}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ok := func(_ Result, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	nodes := map[string]*Node{"a": p.start(t, dir, "a", 1)}
	ok(Result{}, nodes["a"].Bootstrap(ctx, "test"))
	ok(nodes["a"].Register(ctx, ""))
	for _, name := range []string{"b", "w"} {
		ok(nodes["a"].Propose(ctx, AddToken{ID: name, Expires: now + 1, Now: now}))
		ok(nodes["a"].Propose(ctx, JoinNode{Token: name, Now: now, Node: name, Address: name, Kind: Data}))
		nodes[name] = p.start(t, dir, name, 1)
		ok(Result{}, nodes[name].Admit(ctx))
		ok(nodes[name].Register(ctx, ""))
	}
	ok(nodes["b"].Propose(ctx, pairResource()))
	ok(nodes["w"].Propose(ctx, promote(1, "a", 1)))
	ok(Result{}, nodes["b"].Barrier(ctx))
	if err := nodes["b"].raft.Load().Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	ok(nodes["a"].Propose(ctx, AddToken{ID: "late", Expires: now + 1, Now: now})) // behind the snapshot
	ok(Result{}, nodes["b"].Barrier(ctx))
	for _, n := range nodes {
		ok(Result{}, n.Close())
	}
	return dir, p
}

// interrupted fails at one of the steps, and can't exchange names if so told.
type interrupted struct {
	osFiles
	left   int
	simple bool
}

var errInterrupted = errors.New("interrupted")

func (f *interrupted) step(do func() error) error {
	if f.left--; f.left < 0 {
		return errInterrupted
	}
	return do()
}

func (f *interrupted) Rename(from, to string) error {
	return f.step(func() error { return f.osFiles.Rename(from, to) })
}

func (f *interrupted) Remove(path string) error {
	return f.step(func() error { return f.osFiles.Remove(path) })
}

func (f *interrupted) Exchange(one, other string) error {
	if f.simple {
		return unix.EINVAL
	}
	return f.step(func() error { return f.osFiles.Exchange(one, other) })
}

func (f *interrupted) SyncFile(file *os.File) error {
	return f.step(func() error { return f.osFiles.SyncFile(file) })
}

func (f *interrupted) SyncDirectory(path string) error {
	return f.step(func() error { return f.osFiles.SyncDirectory(path) })
}

// A recovery that is interrupted at any step leaves the old store or the new one; said again, it leads to the new one.
func TestRecoveryInterrupted(t *testing.T) {
	from, _ := lostMajority(t)
	for _, simple := range []bool{false, true} {
		steps, done := 0, false
		for ; !done; steps++ {
			dir := filepath.Join(t.TempDir(), "raft")
			if err := copyStore(osFiles{}, filepath.Join(from, "b"), dir); err != nil {
				t.Fatal(err)
			}
			cfg := RecoverConfig{Dir: dir, Node: "b", Address: "b", Now: now}
			_, err := recoverStore(&interrupted{left: steps, simple: simple}, cfg)
			if done = err == nil; err != nil && !strings.Contains(err.Error(), errInterrupted.Error()) { // Raft does not wrap all of them
				t.Fatalf("step %d: %v", steps, err)
			}
			if err := finishRecovery(osFiles{}, dir); err != nil { // between two renames there is none; a start says so
				t.Fatalf("step %d: %v", steps, err)
			}
			o, err := SurveyOffline(dir)
			if err != nil {
				t.Fatalf("step %d: %v", steps, err)
			}
			if o.State.Recovery == 0 {
				if len(o.Voters) != 3 || o.State.Resources["r"].Generation != 2 {
					t.Fatalf("step %d left %+v", steps, o)
				}
				if _, err := Recover(cfg); err != nil {
					t.Fatalf("again after step %d: %v", steps, err)
				}
				o, err = SurveyOffline(dir)
			}
			if err != nil || o.State.Recovery != 1 || len(o.Voters) != 1 {
				t.Fatalf("step %d led to %+v, %v", steps, o, err)
			}
		}
		if steps < 10 {
			t.Errorf("only %d steps", steps)
		}
	}
}

// The survivor goes on alone with what it knew, and says that it may not be all; the others are refused.
func TestRecovery(t *testing.T) {
	dir, p := lostMajority(t)
	store := filepath.Join(dir, "b")
	o, err := SurveyOffline(store)
	if err != nil || !slices.Equal(o.Others("b"), []string{"a", "w"}) || o.Voters["b"] != "b" || o.Index == 0 || o.Term == 0 {
		t.Fatalf("%+v, %v", o, err)
	}
	if got, err := StoredRecovery(store); got != 0 || err != nil {
		t.Errorf("recovery %d, %v", got, err)
	}
	if _, err := Recover(RecoverConfig{Dir: store, Node: "z", Address: "z"}); err == nil || !strings.Contains(err.Error(), "does not know z") {
		t.Errorf("recovered for a stranger: %v", err)
	}
	state, err := Recover(RecoverConfig{Dir: store, Node: "b", Address: "b", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if _, late := state.Tokens["late"]; !late {
		t.Error("what is behind the snapshot is lost")
	}
	want := Recovery{Number: 1, Node: "b", GivenUp: []string{"a", "w"}, Time: now}
	if got := state.Recoveries; len(got) != 1 || got[0].Number != want.Number || !slices.Equal(got[0].GivenUp, want.GivenUp) || got[0].Node != "b" {
		t.Errorf("notes %+v", got)
	}
	r := state.Resources["r"]
	last := r.History[len(r.History)-1]
	if r.Generation != recoveryStep || r.Clean || !r.Hold || r.Primary != "" || r.LossCount != 1 || r.ForcedAt != r.Generation || !last.Forced || last.Kind != "recover" {
		t.Errorf("record %+v, history ends with %+v", r, last)
	}
	if got, err := StoredRecovery(store); got != 1 || err != nil {
		t.Errorf("recovery %d, %v", got, err)
	}
	if _, err := os.Stat(store + ".before-1"); err != nil {
		t.Errorf("the former store: %v", err)
	}
	if _, err := Recover(RecoverConfig{Dir: store, Node: "b", Address: "b"}); err == nil || !strings.Contains(err.Error(), "only voter") {
		t.Errorf("recovered again: %v", err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b := p.start(t, dir, "b", 2)
	if _, err := b.Register(ctx, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Propose(ctx, promote(recoveryStep, "b", 2)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "w"} {
		if err := b.Remove(ctx, Removal{Node: name, WithReplicas: true, GiveUp: true}); err != nil {
			t.Errorf("remove %s: %v", name, err)
		}
	}
	if s := b.State(); len(s.Nodes) != 1 || s.Recovery != 1 || s.Resources["r"].Primary != "b" {
		t.Errorf("record %+v", s)
	}
	if err := b.Close(); err != nil { // and it is all there after a restart
		t.Fatal(err)
	}
	b = p.start(t, dir, "b", 3)
	if _, err := b.Register(ctx, ""); err != nil {
		t.Fatal(err)
	}
	if s := b.State(); len(s.Nodes) != 1 || s.Recovery != 1 || len(b.Status().Voters) != 1 {
		t.Errorf("record %+v", s)
	}
}
