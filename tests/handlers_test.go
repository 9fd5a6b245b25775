package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"duet/tests/cluster"
)

// handler makes an executable of a node's directory.
func (s *scenario) handler(n *cluster.Node, name, script string) {
	s.t.Helper()
	path := filepath.Join(n.Dir, "handlers", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		s.t.Fatal(err)
	}
}

// said is what a node's handlers have appended to handlers/said.
func (s *scenario) said(n *cluster.Node) []string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(n.Dir, "handlers", "said"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// waitFor waits for a condition that nothing announces.
func (s *scenario) waitFor(what string, missing func() error) {
	s.t.Helper()
	s.within(settleTimeout, func(ctx context.Context) error { return cluster.WaitFor(ctx, what, missing) })
}

// says waits until a node's handlers have said all of this, in this order; more may have come between.
func (s *scenario) says(n *cluster.Node, want ...string) {
	s.t.Helper()
	s.waitFor(fmt.Sprintf("handlers of %s: %v", n.Name, want), func() error {
		left := want
		for _, word := range s.said(n) {
			if len(left) > 0 && word == left[0] {
				left = left[1:]
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("said was %v", s.said(n))
		}
		return nil
	})
}

// unsupervised nodes have nobody who certifies that a daemon has ended: then nobody knows whether it is to be fenced.
func unsupervised(c *cluster.Config) { c.RunArguments = []string{"--supervisor=false"} }

// TestHandlersOnFailover goes through the death of a Primary: its peer notices, fences it before it takes the role, and what the
// dead one has set up is cleared when it comes back.
func TestHandlersOnFailover(t *testing.T) {
	s := start(t, unsupervised)
	a, b := s.Node("a"), s.Node("b")
	record := `echo "$DUET_EVENT$DUET_FORCED$([ "$DUET_EVENT" != peer-lost ] || echo "=$DUET_PEER")" >> said`
	for _, event := range []string{"after-promote", "before-demote", "after-demote", "peer-lost", "resync-start", "resync-done"} {
		s.handler(a, event, record)
		s.handler(b, event, record)
	}
	s.create("r0", "8MiB", "--promotion", "manual")
	s.says(a, "after-promote")
	s.handler(b, "fence-peer", `echo fence-$DUET_PEER >> said; echo "the board of $DUET_PEER does not answer"; exit 7`)

	s.kill(a)
	s.says(b, "peer-lost=a")
	s.waitFor("b to ask for a to be fenced", func() error {
		result, err := b.Command(t.Context(), "primary", "r0")
		if err == nil && !strings.Contains(result.Stderr, "the board of a does not answer") {
			err = fmt.Errorf("exit code %d: %s", result.ExitCode, result.Stderr)
		}
		return err
	})
	if role := s.until(b, "r0", "anything", func(*cluster.Resource) error { return nil }).Role; role == "Primary" {
		t.Fatal("b is Primary although nobody knows whether a was fenced")
	}
	s.handler(b, "fence-peer", `echo confirmed-$DUET_PEER >> said`)
	s.promote(b, "r0")
	s.says(b, "peer-lost=a", "fence-a", "confirmed-a", "after-promote")
	if events := s.duet(b, "events", "r0"); !strings.Contains(events, "a is off, as of incarnation 1") {
		t.Errorf("no event tells of the fencing:\n%s", events)
	}

	s.restart(a)
	s.inSync("r0")
	s.says(a, "after-promote", "before-demote1", "after-demote1", "resync-start", "resync-done")
	s.says(b, "after-promote", "resync-start", "resync-done")
	if slices.Contains(s.said(b), "before-demote") {
		t.Errorf("b gave nothing up, but %v", s.said(b))
	}

	s.duet(b, "secondary", "r0") // nobody is Primary now: nobody is to be fenced
	s.handler(a, "fence-peer", `echo FENCE >> said; exit 1`)
	s.promote(a, "r0")
	s.says(a, "resync-done", "after-promote")
	if slices.Contains(s.said(a), "FENCE") {
		t.Error("a node was fenced that had given its role up")
	}
}

// TestHandlerOfALostQuorum cuts a Primary off from everybody: it waits, and says so by a handler; a peer that has no majority
// shoots nobody.
func TestHandlerOfALostQuorum(t *testing.T) {
	s := start(t)
	a, b, w := s.Node("a"), s.Node("b"), s.Node("witness")
	s.create("r0", "8MiB", "--promotion", "manual")
	s.handler(a, "quorum-lost", `echo "$DUET_EVENT" >> said`)
	s.handler(b, "fence-peer", `echo FENCE >> said`)
	s.kill(w)
	if err := a.Freeze(); err != nil {
		t.Fatal(err)
	}
	if result, err := b.Command(t.Context(), "--timeout", "3s", "primary", "r0"); err != nil || result.ExitCode == 0 {
		t.Fatalf("%+v, %v", result, err)
	}
	if said := s.said(b); len(said) > 0 {
		t.Errorf("b has no majority and said %v", said)
	}
	s.kill(b)
	if err := a.Thaw(); err != nil {
		t.Fatal(err)
	}
	s.says(a, "quorum-lost")
	s.restart(w)
	s.waitFor("the end of the suspension", func() error {
		if events := s.duet(a, "events", "r0"); !strings.Contains(events, "there is a majority again") {
			return errors.New(events)
		}
		return nil
	})
	if got := s.said(a); len(got) != 1 {
		t.Errorf("said was %v", got)
	}
}

// TestHandlerRefusesAnAutomaticPromotion lets the node whose turn it is have a reason against it: then the next one takes the dead
// Primary's place.
func TestHandlerRefusesAnAutomaticPromotion(t *testing.T) {
	s := start(t, dataNodes(3), func(c *cluster.Config) { c.Witness = false })
	a, b, c := s.Node("a"), s.Node("b"), s.Node("c")
	s.create("r0", "8MiB", "--promotion", "auto")
	s.handler(b, "before-promote", `echo refused >> said; exit 1`)
	s.handler(c, "after-promote", `echo "$DUET_EVENT" >> said`)
	s.kill(a)
	s.says(c, "after-promote")
	s.until(c, "r0", "c to be Primary", func(r *cluster.Resource) error {
		if r.Role != "Primary" {
			return errors.New(r.Role)
		}
		return nil
	})
	if said := s.said(b); len(said) == 0 {
		t.Error("b, whose turn it was, was not asked")
	}
}
