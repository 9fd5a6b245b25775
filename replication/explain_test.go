package replication

import (
	"strings"
	"testing"
)

func explained(t *testing.T, r *Resource) Explanation {
	t.Helper()
	e, err := r.Explain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The Primary tells the decision that a session began with, also after what came of it; a Secondary tells what it is.
func TestExplain(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.wait("a decision, and its arrival", func() bool {
		e := explained(t, c.nodes["a"].resource)
		return e.Peers[0].Generation > 0 && explained(t, c.nodes["b"].resource).Source != "a, once it is connected"
	})
	e := explained(t, c.nodes["a"].resource)
	if len(e.Peers) != 1 || e.Role != "Primary" || e.Peers[0].Result != "gets every write, nothing to copy" {
		t.Errorf("in sync: %+v", e)
	}
	if e := explained(t, c.nodes["b"].resource); e.Source != "nobody: there is nothing to copy; it gets every write from a" || len(e.Peers) != 0 {
		t.Errorf("the Secondary: %+v", e)
	}
	c.crash("b")
	c.writeSome("a", 10)
	if e := explained(t, c.nodes["a"].resource); e.Peers[0].Result != "not connected" || len(e.Peers[0].Rules) != 0 {
		t.Errorf("gone: %+v", e)
	}
	c.start("b")
	c.wait("the resync", c.allInSync)
	p := explained(t, c.nodes["a"].resource).Peers[0]
	if !strings.HasPrefix(p.Result, "resync of what") || p.Generation == 0 || len(p.Rules) == 0 || !p.Rules[len(p.Rules)-1].Yes {
		t.Errorf("after the resync: %+v", p)
	}
}

func TestStanding(t *testing.T) {
	tests := []struct {
		name, disk       string
		connected        bool
		change           func(c *Configuration)
		standing, source string
	}{
		{"in sync", "UpToDate", true, func(c *Configuration) { c.InSync = []string{"a", "b"} },
			"in the in-sync set since generation 4", "nobody: there is nothing to copy; it gets every write from a"},
		{"in sync, not connected", "UpToDate", false, func(c *Configuration) { c.InSync = []string{"a", "b"} },
			"in the in-sync set since generation 4", "a, once it is connected"},
		{"in sync, no Primary", "UpToDate", false, func(c *Configuration) { c.InSync, c.Primary = []string{"a", "b"}, "" },
			"in the in-sync set since generation 4", "nobody: there is nothing to copy; it gets every write once there is a Primary"},
		{"in the set with a bad disk", "Inconsistent", true, func(c *Configuration) { c.InSync = []string{"a", "b"} },
			"in the in-sync set since generation 4; its disk is Inconsistent", "a, once this replica is out of the in-sync set"},
		{"left", "Outdated", true, func(*Configuration) {}, "left the in-sync set in generation 7", "a: `duet explain r0` there says how"},
		{"left, no Primary", "Outdated", false, func(c *Configuration) { c.Primary = "" },
			"left the in-sync set in generation 7", "whoever becomes Primary of those in sync: a"},
		{"left, the Primary has no disk", "Outdated", true, func(c *Configuration) { c.InSync = []string{"c"} },
			"left the in-sync set in generation 7", "nobody: the Primary, a, has no in-sync disk"},
		{"never in", "Inconsistent", true, func(c *Configuration) { c.Replicas[1].LeftAt = 0 },
			"never was in the in-sync set; its disk is Inconsistent", "a: `duet explain r0` there says how"},
		{"failed", "Failed", true, func(*Configuration) {}, "left the in-sync set in generation 7; its disk is Failed", "nobody: there is no usable disk here"},
		{"no replica", "Diskless", true, func(c *Configuration) { c.Replicas = nil }, "the record has no replica here", "nobody: there is no usable disk here"},
		{"side of a split", "Outdated", true, func(c *Configuration) { c.Replicas[1].Fork.At = 7 },
			"left the in-sync set in generation 7, a side of a split since: nothing is copied to it",
			"nobody, until it is decided which side is kept: `duet split show r0`"},
		{"given up", "Outdated", true, func(c *Configuration) { c.Replicas[1].Fork.At, c.Replicas[1].Discard.At = 7, 9 },
			"left the in-sync set in generation 7, a side of a split that was given up in generation 9", "a: `duet explain r0` there says how"},
		{"about to be Primary", "UpToDate", false, func(c *Configuration) { c.InSync, c.Primary = []string{"b"}, "b" },
			"in the in-sync set since generation 4", "nobody yet: this node is about to become Primary"},
	}
	for _, tt := range tests {
		conf := factsOf(func(*sourceFacts) {}).configuration
		conf.Resource = "r0"
		tt.change(conf)
		if got := standingOf(conf, "b", tt.disk); got != tt.standing {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.standing)
		}
		if got := sourceOf(conf, "b", tt.disk, tt.connected); got != tt.source {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.source)
		}
	}
}
