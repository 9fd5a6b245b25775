package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/handlers"
	"duet/quorum"
	"duet/replication"
)

// handler makes an executable of the node's directory.
func (r *running) handler(name, script string) {
	r.t.Helper()
	path := filepath.Join(r.dir.Handlers(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) noHandler(name string) {
	r.t.Helper()
	if err := os.Remove(filepath.Join(r.dir.Handlers(), name)); err != nil {
		r.t.Fatal(err)
	}
}

// recorder makes handlers that write down that they were run.
func (r *running) recorder(events ...handlers.Event) {
	for _, event := range events {
		r.handler(string(event), `echo "$DUET_EVENT$DUET_FORCED" >> said`)
	}
}

// said waits until the handlers have been run that are named, in this order and no others.
func (r *running) said(want ...string) {
	r.t.Helper()
	path := filepath.Join(r.dir.Handlers(), "said")
	var got []string
	defer func() {
		if r.t.Failed() {
			r.t.Logf("%s: handlers ran %v", r.dir, got)
		}
	}()
	eventually(r.t, strings.Join(want, " "), func() bool {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.t.Fatal(err)
		}
		got = strings.Fields(string(text))
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		r.t.Fatalf("on %s ran %v, want %v", r.dir, got, want)
	}
}

// eventually waits for a condition that nothing announces.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(waitInterval)
	defer tick.Stop()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// pair is a cluster of two data nodes and a witness with a resource r0, whose Primary is a.
func pair(t *testing.T) (a, b *running) {
	t.Helper()
	a = found(t, "a")
	b = a.join("b", config.KindData)
	a.join("w", config.KindWitness)
	disks := t.TempDir()
	_, err := a.client.ResourceCreate(t.Context(), &control.ResourceCreateRequest{Name: "r0", SizeBytes: 1 << 20, Promotion: control.PromotionManual,
		Replicas: []control.Replica{{Node: "a", Path: filepath.Join(disks, "a")}, {Node: "b", Path: filepath.Join(disks, "b")}}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a to serve", func() bool {
		st, err := a.client.Status(t.Context())
		return err == nil && len(st.Resources) == 1 && st.Resources[0].Role == control.RolePrimary
	})
	return a, b
}

func (r *running) primary() error {
	_, err := r.client.Primary(r.t.Context(), "r0", &control.PrimaryRequest{})
	return err
}

func (r *running) secondary() error {
	_, err := r.client.Secondary(r.t.Context(), "r0")
	return err
}

var roleEvents = []handlers.Event{handlers.BeforePromote, handlers.AfterPromote, handlers.BeforeDemote, handlers.AfterDemote}

// Handlers run around every change of role, in order, and can refuse what has not happened yet, in their own words.
func TestHandlersAroundTheRole(t *testing.T) {
	a, b := pair(t)
	a.recorder(roleEvents...)
	b.recorder(roleEvents...)
	if err := a.secondary(); err != nil {
		t.Fatal(err)
	}
	a.said("before-demote", "after-demote")

	b.handler("before-promote", `echo the fan is broken; exit 1`)
	refused(t, b.primary(), control.CodeRefused, "handler before-promote: exit status 1: the fan is broken")
	if r, err := a.client.ResourceShow(t.Context(), "r0"); err != nil || r.Primary != "" {
		t.Fatalf("Primary is %q, %v", r.Primary, err)
	}
	b.recorder(handlers.BeforePromote)
	if err := b.primary(); err != nil {
		t.Fatal(err)
	}
	b.said("before-promote", "after-promote")

	b.handler("before-demote", `echo busy; exit 1`)
	refused(t, b.secondary(), control.CodeRefused, "handler before-demote: exit status 1: busy")
	b.said("before-promote", "after-promote", "after-promote") // what was taken down before the refusal is set up again
	if r, err := a.client.ResourceShow(t.Context(), "r0"); err != nil || r.Primary != "b" {
		t.Fatalf("Primary is %q, %v", r.Primary, err)
	}
}

// A daemon that is told to stop runs them while clients are still served, and stops even if one fails.
func TestHandlersAtStop(t *testing.T) {
	a, b := pair(t)
	a.recorder(handlers.AfterDemote)
	a.handler("before-demote", `[ -S "$DUET_NBD_SOCKET" ] && echo served >> said; exit 1`)
	a.stop()
	a.said("served", "after-demote")
	eventually(t, "the role to be given up in good order", func() bool {
		r, err := b.client.ResourceShow(t.Context(), "r0")
		return err == nil && r.Primary == "" && r.Clean
	})
}

// When another node has taken the role, the handlers clear up, briefly and whatever they say.
func TestHandlersOfALostRole(t *testing.T) {
	a, b := pair(t)
	n := b.node(t)
	a.recorder(roleEvents...)
	a.handler("before-demote", `echo "$DUET_EVENT$DUET_FORCED" >> said; exit 1`)
	b.recorder(roleEvents...)
	takeRole(t, n)
	a.said("before-demote1", "after-demote1")
	b.said("after-promote") // before-promote is asked where the role is asked for, which was left out here
}

// takeRole has the record make n the Primary of r0, without asking anybody.
func takeRole(t *testing.T, n *Node) {
	t.Helper()
	eventually(t, "the change of Primary", func() bool {
		r := n.quorum.State().Resources["r0"]
		if r == nil || !r.IsInSync(n.config.Name) {
			return false
		}
		_, err := n.quorum.Propose(t.Context(), quorum.Promote{Resource: "r0", Generation: r.Generation, Node: n.config.Name,
			Incarnation: n.incarnation, Reason: "test", Now: time.Now().Unix()})
		return err == nil
	})
}

// What handlers set up for a daemon that was killed is cleared when it starts again.
func TestHandlersClearWhatWasLeft(t *testing.T) {
	a := found(t, "a")
	a.stop()
	a.recorder(roleEvents...)
	if err := os.WriteFile(filepath.Join(a.dir.Handlers(), ".promoted.r0"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a = run(t, a.dir)
	a.said("before-demote1", "after-demote1")
	a.stop()
	run(t, a.dir)
	a.said("before-demote1", "after-demote1")
}

// The handler of a failed disk is told the facts; only under its policy is it run, and that there is none is told.
func TestHandlerOfAFailedDisk(t *testing.T) {
	a, _ := pair(t)
	n := a.node(t)
	a.handler("local-io-error", `echo "$DUET_RESOURCE.$DUET_NODE.$DUET_DEVICE.$DUET_ROLE.$DUET_ERROR" | tr " " _ >> said`)
	failure := replication.DiskFailure{Resource: "r0", Policy: replication.OnIOErrorDetach, Role: "Primary", Cause: syscall.EIO}
	n.diskFailed("/srv/r0.img", failure)
	failure.Policy = replication.OnIOErrorHandler
	n.diskFailed("/srv/r0.img", failure)
	a.said("r0.a./srv/r0.img.Primary.input/output_error")
	a.noHandler("local-io-error")
	n.diskFailed("/srv/r0.img", failure)
	eventually(t, "the event", func() bool {
		events, _ := n.journal.after(0)
		return slices.ContainsFunc(events, func(e control.Event) bool {
			return e.Kind == "handler" && e.New == "failed" && strings.Contains(e.Message, "there is none")
		})
	})
}
