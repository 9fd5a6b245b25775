package quorum

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// machine drives the state machine with commands that are mostly plausible, and remembers enough to check that what
// the record promises was kept.
type machine struct {
	s *State
	// promotedAs is the incarnation at each promotion, by generation.
	promotedAs map[uint64]uint64
}

func nodeName() *rapid.Generator[string] { return rapid.SampledFrom([]string{"a", "b", "c", "w", "z"}) }

// near draws a number that is usually n and sometimes just beside it.
func near(t *rapid.T, label string, n uint64) uint64 {
	switch rapid.IntRange(0, 9).Draw(t, label) {
	case 0:
		return n + 1
	case 1:
		return n - min(n, 1)
	default:
		return n
	}
}

func (m *machine) resource() *Resource { return m.s.Resources["r"] }

func (m *machine) generation(t *rapid.T) uint64 {
	if r := m.resource(); r != nil {
		return near(t, "generation", r.Generation)
	}
	return rapid.Uint64Range(0, 2).Draw(t, "generation")
}

func (m *machine) incarnation(t *rapid.T, node string) uint64 {
	return near(t, "incarnation", m.s.Nodes[node].Incarnation)
}

// proposer draws who proposes: usually the Primary.
func (m *machine) proposer(t *rapid.T) (string, uint64) {
	r := m.resource()
	if r == nil || r.Primary == "" || rapid.IntRange(0, 9).Draw(t, "stranger") == 0 {
		node := nodeName().Draw(t, "proposer")
		return node, m.incarnation(t, node)
	}
	return r.Primary, near(t, "incarnation", r.PrimaryIncarnation)
}

// command draws a command; one function per kind keeps this table short.
func (m *machine) command(t *rapid.T) Command {
	node := nodeName().Draw(t, "node")
	proposer, proposerInc := m.proposer(t)
	switch rapid.SampledFrom([]string{"promote", "promote", "demote", "switch", "remove", "add", "add", "detach", "register", "register",
		"create", "delete", "remove-node", "force", "keep", "grow", "replace", "add-replica", "add-replica", "remove-replica", "edit"}).Draw(t, "kind") {
	case "promote":
		return Promote{Resource: "r", Generation: m.generation(t), Node: node, Incarnation: m.incarnation(t, node)}
	case "demote":
		return Demote{Resource: "r", Generation: m.generation(t), Node: proposer, Incarnation: proposerInc,
			Clean: rapid.Bool().Draw(t, "clean"), Hold: rapid.Bool().Draw(t, "hold")}
	case "switch":
		return Switch{Resource: "r", Generation: m.generation(t), Node: proposer, Incarnation: proposerInc, Target: node, TargetInc: m.incarnation(t, node)}
	case "remove":
		return RemoveInSync{Resource: "r", Generation: m.generation(t), Proposer: proposer, ProposerInc: proposerInc, Target: node}
	case "add":
		return AddInSync{Resource: "r", Generation: m.generation(t), Proposer: proposer, ProposerInc: proposerInc,
			Target: node, TargetInc: m.incarnation(t, node), TargetPromised: m.generation(t)}
	case "detach":
		return Detach{Resource: "r", Generation: m.generation(t), Proposer: proposer, ProposerInc: proposerInc}
	case "replace":
		return ReplaceDisk{Resource: "r", Generation: m.generation(t), Node: node, Incarnation: m.incarnation(t, node), Path: "/dev/other"}
	case "force":
		c := Force{Resource: "r", Generation: m.generation(t), Node: node, Incarnation: m.incarnation(t, node)}
		if r := m.resource(); r != nil && r.replica(node) != nil && rapid.Bool().Draw(t, "base") {
			c.Base = r.replica(node).LeftAt
		}
		return c
	case "grow":
		c := GrowResource{Resource: "r", Generation: m.generation(t), Equal: rapid.Bool().Draw(t, "equal"), Prepared: map[string]uint64{}}
		if r := m.resource(); r != nil {
			c.SizeBytes = near(t, "blocks", r.SizeBytes/4096+1) * 4096
			for _, p := range r.Replicas {
				c.Prepared[p.Node] = m.incarnation(t, p.Node)
			}
		}
		return c
	case "add-replica":
		c := AddReplica{Resource: "r", Generation: m.generation(t), Incarnation: m.incarnation(t, node),
			NewReplica: NewReplica{Node: node, Path: "/dev/added", Slot: rapid.IntRange(0, 3).Draw(t, "slot")}}
		if r := m.resource(); r != nil && rapid.Bool().Draw(t, "free") {
			c.Slot = r.FreeSlot()
		}
		return c
	case "remove-replica":
		return RemoveReplica{Resource: "r", Generation: m.generation(t), Node: node, GiveUp: rapid.Bool().Draw(t, "give up")}
	case "edit":
		return EditResource{Resource: "r", Generation: m.generation(t), Preferred: new(node)}
	case "keep":
		return ResolveSplit{Resource: "r", Generation: m.generation(t), Keep: node, Fence: rapid.Bool().Draw(t, "fence"),
			Undo: rapid.SampledFrom([]string{"", "/undo"}).Draw(t, "undo")}
	case "register":
		n := m.s.Nodes[node]
		return RegisterNode{Node: node, Incarnation: near(t, "incarnation", n.Incarnation+1), RunID: fmt.Sprint(n.Incarnation + 1),
			BootID: rapid.SampledFrom([]string{n.BootID, n.BootID + "'"}).Draw(t, "boot"), Address: node + ":7600"}
	case "create":
		return create(rapid.SampledFrom([][]string{{"a"}, {"a", "b"}, {"a", "b", "c"}}).Draw(t, "set")...)
	case "delete":
		if rapid.IntRange(0, 4).Draw(t, "really") > 0 {
			return mark{}
		}
		return DeleteResource{Resource: "r", Generation: m.generation(t)}
	default:
		if rapid.IntRange(0, 9).Draw(t, "really") > 0 {
			node = "z"
		}
		c := RemoveNode{Node: node, Generations: map[string]uint64{}, GiveUp: rapid.Bool().Draw(t, "give up")}
		if r := m.resource(); r != nil && r.replica(node) != nil {
			c.Generations["r"] = m.generation(t)
		}
		return c
	}
}

// recovery rebuilds the quorum now and then: what the record says after it is legal, newer than anything before, and acts for nobody.
func (m *machine) recovery(t *rapid.T) {
	if rapid.IntRange(0, 19).Draw(t, "recovery") > 0 {
		return
	}
	before, number := m.resource(), m.s.Recovery
	m.s = m.s.recovered(Recovery{Node: "a", GivenUp: []string{"b", "w"}, Time: now})
	if err := m.s.check(); err != nil || m.s.Recovery != number+1 {
		t.Fatalf("recovery %d after %d: %v", m.s.Recovery, number, err)
	}
	after := m.resource()
	if before == nil {
		return
	}
	switch last := after.History[len(after.History)-1]; {
	case after.Generation <= before.Generation || after.Generation%recoveryStep != 0:
		t.Fatalf("generation %d -> %d", before.Generation, after.Generation)
	case after.Primary != "" || after.Clean || !after.Hold || !slices.Equal(after.InSync, before.InSync):
		t.Fatalf("the record is %+v", after)
	case !last.Forced || after.ForcedAt != after.Generation || after.LossCount != before.LossCount+1:
		t.Fatalf("marked by %+v, forced at %d, loss count %d", last, after.ForcedAt, after.LossCount)
	}
}

func (m *machine) step(t *rapid.T) {
	m.recovery(t)
	c := m.command(t)
	before := m.resource()
	next, out := apply(m.s, c)
	if err := next.check(); err != nil {
		t.Fatalf("%s %+v: %v", c.kind(), c, err)
	}
	if out.Code != codeOK {
		if next != m.s {
			t.Fatalf("%s was not accepted, yet changed the state", c.kind())
		}
		return
	}
	m.s = next
	after := m.resource()
	if before == after {
		return
	}
	switch {
	case before == nil || after == nil:
		m.promotedAs = map[uint64]uint64{}
		return
	case after.Generation != before.Generation+1:
		t.Fatalf("%s: generation %d -> %d", c.kind(), before.Generation, after.Generation)
	case after.PrimarySince < before.PrimarySince:
		t.Fatalf("%s: Primary since %d -> %d", c.kind(), before.PrimarySince, after.PrimarySince)
	case after.SizeBytes < before.SizeBytes:
		t.Fatalf("%s: size %d -> %d", c.kind(), before.SizeBytes, after.SizeBytes)
	case after.LossCount < before.LossCount:
		t.Fatalf("%s: loss count %d -> %d", c.kind(), before.LossCount, after.LossCount)
	}
	switch p := c.(type) {
	case Promote:
		m.promotedAs[after.Generation] = p.Incarnation
	case Switch:
		m.promotedAs[after.Generation] = p.TargetInc
	case Force:
		m.promotedAs[after.Generation] = p.Incarnation
	}
	m.checkRoles(t, before, after)
	m.checkForks(t, c, before, after)
	checkReplicas(t, c, before, after)
}

// checkReplicas: only its own commands change who has a replica, and none of them touches the Primary, empties the set, or takes the
// last machine that has what was acknowledged and not flushed.
func checkReplicas(t *rapid.T, c Command, before, after *Resource) {
	switch c.(type) {
	case AddReplica:
		if len(after.Replicas) != len(before.Replicas)+1 || !slices.Equal(after.InSync, before.InSync) {
			t.Fatalf("%s: %+v, then %+v", c.kind(), before, after)
		}
	case RemoveReplica, RemoveNode:
		if len(after.Replicas) != len(before.Replicas)-1 || after.Primary != before.Primary || after.Primary != "" && after.replica(after.Primary) == nil {
			t.Fatalf("%s: %+v, then %+v", c.kind(), before, after)
		}
	default:
		if len(after.Replicas) != len(before.Replicas) {
			t.Fatalf("%s changed who has a replica: %+v, then %+v", c.kind(), before, after)
		}
	}
	slots := map[int]bool{}
	for _, p := range after.Replicas {
		if was, found := before.Replica(p.Node); slots[p.Slot] || found && was.Slot != p.Slot {
			t.Fatalf("%s: slots of %+v, then %+v", c.kind(), before.Replicas, after.Replicas)
		}
		slots[p.Slot] = true
	}
}

// checkRoles checks the invariants I1 and I5 of the protocol, and that every way out of the set is written down.
func (m *machine) checkRoles(t *rapid.T, before, after *Resource) {
	if after.Primary != "" && m.promotedAs[after.PrimarySince] != after.PrimaryIncarnation {
		t.Fatalf("Primary %s acts as incarnation %d, promoted as %d", after.Primary, after.PrimaryIncarnation, m.promotedAs[after.PrimarySince])
	}
	forced := after.History[len(after.History)-1].Forced
	if after.Primary != "" && after.Primary != before.Primary && !before.IsInSync(after.Primary) && !forced {
		t.Fatalf("%s became Primary and was not in sync in %v", after.Primary, before.InSync)
	}
	for _, r := range after.Replicas {
		wasIn, isIn := before.IsInSync(r.Node), after.IsInSync(r.Node)
		if wasIn && !isIn && r.LeftAt != after.Generation {
			t.Fatalf("%s left at %d, recorded %d", r.Node, after.Generation, r.LeftAt)
		}
		if !wasIn && isIn && r.AdmittedAt != after.Generation {
			t.Fatalf("%s was admitted at %d, recorded %d", r.Node, after.Generation, r.AdmittedAt)
		}
	}
	newest := after.History[len(after.History)-1]
	if newest.Generation != after.Generation || newest.Primary != after.Primary || !slices.Equal(newest.InSync, after.InSync) {
		t.Fatalf("history ends with %+v, the record is %+v", newest, after)
	}
}

// checkForks: only a forced change may replace the whole set; then whoever was in it is marked, until it is in the set again,
// or until the operator keeps its side.
func (m *machine) checkForks(t *rapid.T, c Command, before, after *Resource) {
	forced := after.History[len(after.History)-1].Forced
	if kept := slices.ContainsFunc(after.InSync, before.IsInSync); !kept && !forced {
		t.Fatalf("%s: in sync were %v, now %v, and history does not say that it was forced", c.kind(), before.InSync, after.InSync)
	}
	if forced && (after.LossCount != before.LossCount+1 || after.ForcedAt != after.Generation) {
		t.Fatalf("%s: forced at %d, loss count %d, then %d", c.kind(), after.ForcedAt, before.LossCount, after.LossCount)
	}
	_, resolved := c.(ResolveSplit)
	_, replaced := c.(ReplaceDisk) // of one that was given up
	for _, r := range after.Replicas {
		was, _ := before.Replica(r.Node)
		switch marked := r.Fork.At != 0; {
		case forced && before.IsInSync(r.Node) && !after.IsInSync(r.Node) && !marked:
			t.Fatalf("%s was in sync before the forced change and is not marked", r.Node)
		case was.Fork.At != 0 && !marked && !after.IsInSync(r.Node) && !resolved && (!replaced || was.Discard.At == 0):
			t.Fatalf("%s: %s lost its mark", c.kind(), r.Node)
		case r.Discard != was.Discard && r.Discard.At != 0 && !resolved:
			t.Fatalf("%s gave %s up", c.kind(), r.Node)
		}
	}
}

func TestRecordKeepsItsInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{s: cluster(t), promotedAs: map[uint64]uint64{}}
		m.s = must(t, m.s, create("a", "b", "c"))
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			m.step(rt)
		}
		data, err := encodeSnapshot(m.s, 7)
		if err != nil {
			rt.Fatal(err)
		}
		checkSnapshotRoundTrip(rt, m.s, data)
	})
}

// Two racing promotions made for the same generation: whichever is first in the log wins, and the other is stale.
func TestOneOfTwoRacingPromotionsWins(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := must(t, cluster(t), create("a", "b", "c"))
		commands := rapid.Permutation([]Command{promote(1, "a", 1), promote(1, "b", 1), promote(1, "c", 1)}).Draw(rt, "order")
		won := 0
		for _, c := range commands {
			next, out := apply(s, c)
			switch out.Code {
			case codeOK:
				won++
			case codeStale:
			default:
				rt.Fatalf("%s %s", out.Code, out.Reason)
			}
			s = next
		}
		if won != 1 {
			rt.Fatalf("%d of three won", won)
		}
	})
}
