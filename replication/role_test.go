package replication

import (
	"context"
	"errors"
	"testing"
)

// Whoever is asked before a change of role can refuse it: then nothing has happened, and leases are granted as before. A role that
// ends is told once, with whether it was given up.
func TestRoleHooks(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	no := errors.New("not now")
	refuse, changes := no, make(chan RoleChange, 8)
	a := c.nodes["a"].resource
	set := func(hooks RoleHooks) {
		if err := a.call(t.Context(), func() { a.cfg.Role = hooks.withDefaults() }); err != nil {
			t.Fatal(err)
		}
	}
	set(RoleHooks{BeforePromote: func(context.Context) error { return refuse }, BeforeDemote: func(context.Context) error { return refuse },
		Changed: func(change RoleChange) { changes <- change }})
	c.wait("a is connected", func() bool { return a.Status().Peers[0].ConnectionState == "Connected" })
	if err := a.Promote(t.Context()); !errors.Is(err, no) || !errors.Is(err, ErrRefused) {
		t.Fatalf("promoted with %v", err)
	}
	a.volume.mu.Lock()
	candidate := a.volume.given.candidate
	a.volume.mu.Unlock()
	if candidate != 0 {
		t.Error("it grants no leases, for a promotion that was never asked for")
	}
	refuse = nil
	if err := a.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if change := <-changes; !change.Primary || change.Generation != 2 {
		t.Errorf("told of %+v", change)
	}
	c.writeSome("a", 5)
	refuse = no
	if err := a.Demote(t.Context()); !errors.Is(err, no) || !a.Serving() {
		t.Fatalf("demoted with %v", err)
	}
	c.writeSome("a", 5)
	refuse = nil
	if err := a.Demote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if change := <-changes; change.Primary || !change.Ordered {
		t.Errorf("told of %+v", change)
	}
	if err := a.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-changes
	c.wait("b to be made Primary by others", func() bool {
		c.arbiter.mu.Lock()
		generation := c.arbiter.conf.Generation
		c.arbiter.mu.Unlock()
		_, err := c.arbiter.Propose(t.Context(), Proposal{Kind: ProposePromote, Generation: generation, Node: "b", Incarnation: c.nodes["b"].incarnation})
		return err == nil
	})
	if change := <-changes; change.Primary || change.Ordered {
		t.Errorf("told of %+v", change)
	}
}
