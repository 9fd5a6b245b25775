package quorum

import (
	"slices"
	"testing"
)

func addReplica(generation uint64, node string, slot int) AddReplica {
	return AddReplica{Resource: "r", Generation: generation, Incarnation: 1, NewReplica: NewReplica{Node: node, Slot: slot, Path: "/new"}}
}

func removeReplica(generation uint64, node string) RemoveReplica {
	return RemoveReplica{Resource: "r", Generation: generation, Node: node, Reason: "test"}
}

// five is the record of served with one more data node, d, which has no replica.
func five(t *testing.T) *State {
	t.Helper()
	s := must(t, served(t), AddToken{ID: "token-d", Expires: now + 60, Now: now},
		JoinNode{Token: "token-d", Now: now, Node: "d", Address: "d:7600", Kind: Data})
	return boot(t, s, "d", 1, 1)
}

func TestMemberGuards(t *testing.T) {
	with := func(build func(*testing.T) *State, more ...Command) func(*testing.T) *State {
		return func(t *testing.T) *State { return must(t, build(t), more...) }
	}
	two := with(cluster, create("a"), removeReplica(1, "c"), removeReplica(2, "b"), RemoveNode{Node: "b"}, RemoveNode{Node: "c"})
	forced := with(served, remove(2, "c"), force(3, "c", 1, 0))
	giveUp := removeReplica(4, "b")
	giveUp.GiveUp = true
	durable := create("a", "b", "c")
	durable.AckDurable = true
	tests := []struct {
		name  string
		state func(*testing.T) *State
		c     Command
		want  code
		why   string
	}{
		{"add a replica", five, addReplica(2, "d", 3), codeOK, ""},
		{"add a replica in a slot that was left", with(five, removeReplica(2, "b")), addReplica(3, "d", 1), codeOK, ""},
		{"add a replica again", with(five, removeReplica(2, "b")), addReplica(3, "b", 1), codeOK, ""},
		{"add a replica twice", with(five, addReplica(2, "d", 3)), addReplica(3, "d", 4), codeRefused, "already"},
		{"add a replica with a stale generation", five, addReplica(1, "d", 3), codeStale, "generation 2"},
		{"add a replica of nothing", cluster, addReplica(1, "a", 3), codeRefused, "no resource"},
		{"add a replica on a witness", five, addReplica(2, "w", 3), codeRefused, "witness"},
		{"add a replica on a stranger", five, addReplica(2, "z", 3), codeRefused, "not a node"},
		{"add a replica that an older process prepared", with(five, register("d", 2, 1)), addReplica(2, "d", 3), codeRefused, "incarnation 2"},
		{"add a replica in a slot that is taken", five, addReplica(2, "d", 1), codeRefused, "the one of b"},
		{"add a replica in no slot", five, addReplica(2, "d", 8), codeRefused, "not in 0..7"},
		{"add a replica without a path", five, AddReplica{Resource: "r", Generation: 2, Incarnation: 1, NewReplica: NewReplica{Node: "d", Slot: 3}}, codeRefused, "path"},

		{"remove a replica", served, removeReplica(2, "b"), codeOK, ""},
		{"remove a replica outside the set", with(served, remove(2, "b")), removeReplica(3, "b"), codeOK, ""},
		{"remove a replica with a stale generation", served, removeReplica(1, "b"), codeStale, "generation 2"},
		{"remove the Primary's replica", served, removeReplica(2, "a"), codeRefused, "Primary"},
		{"remove the last in-sync replica", with(served, remove(2, "b"), remove(3, "c"), demote(4, "a", true)), removeReplica(5, "a"), codeRefused, "last in-sync"},
		{"remove a replica that is not there", served, removeReplica(2, "w"), codeRefused, "no replica"},
		{"remove the one that did not restart", with(served, demote(2, "a", false), register("a", 2, 2), register("b", 2, 2)),
			removeReplica(3, "c"), codeRefused, "may have acknowledged writes"},
		{"remove one that did not restart, and another did not", with(served, demote(2, "a", false), register("a", 2, 2)), removeReplica(3, "c"), codeOK, ""},
		{"remove one that restarted", with(served, demote(2, "a", false), register("a", 2, 2), register("b", 2, 2)), removeReplica(3, "b"), codeOK, ""},
		{"remove the one that did not restart, all is stable", with(cluster, durable, promote(1, "a", 1), demote(2, "a", false),
			register("a", 2, 2), register("b", 2, 2)), removeReplica(3, "c"), codeOK, ""},
		{"remove a side of a split", forced, removeReplica(4, "b"), codeRefused, "side of a split"},
		{"give a side of a split up", forced, giveUp, codeOK, ""},
		{"remove the node of a side of a split", forced, RemoveNode{Node: "b", Generations: map[string]uint64{"r": 4}}, codeRefused, "side of a split"},
		{"give the node of a side of a split up", forced, RemoveNode{Node: "b", Generations: map[string]uint64{"r": 4}, GiveUp: true}, codeOK, ""},
		{"remove the node that did not restart", with(served, demote(2, "a", false), register("a", 2, 2), register("b", 2, 2)),
			RemoveNode{Node: "c", Generations: map[string]uint64{"r": 3}}, codeRefused, "may have acknowledged writes"},

		{"remove the witness of two", two, RemoveNode{Node: "w"}, codeOK, ""},
		{"remove the last data node", with(two, DeleteResource{Resource: "r", Generation: 3}), RemoveNode{Node: "a"}, codeRefused, "last data node"},
		{"remove the last node", with(two, RemoveNode{Node: "w"}, DeleteResource{Resource: "r", Generation: 3}), RemoveNode{Node: "a"}, codeRefused, "last node"},

		{"edit", served, EditResource{Resource: "r", Generation: 2, Promotion: new(PromotionManual)}, codeOK, ""},
		{"edit with a stale generation", served, EditResource{Resource: "r", Generation: 1, Promotion: new(PromotionManual)}, codeStale, "generation 2"},
		{"edit nothing", served, EditResource{Resource: "r", Generation: 2, Promotion: new(PromotionAuto), Preferred: new("a")}, codeRefused, "changes nothing"},
		{"edit to no policy", served, EditResource{Resource: "r", Generation: 2, Promotion: new(Promotion("maybe"))}, codeRefused, "neither"},
		{"edit to a preferred node without a replica", served, EditResource{Resource: "r", Generation: 2, Preferred: new("w")}, codeRefused, "no replica"},
		{"edit to no preferred node", served, EditResource{Resource: "r", Generation: 2, Preferred: new("")}, codeOK, ""},
		{"edit to no policy on I/O errors", served, EditResource{Resource: "r", Generation: 2, OnIOError: new("ignore")}, codeRefused, "none of"},
		{"edit to no disk timeout", served, EditResource{Resource: "r", Generation: 2, DiskTimeoutMS: new(int64(-2))}, codeRefused, "not possible"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { checkOutcome(t, tt.state(t), tt.c, tt.want, tt.why) })
	}
}

// A replica that comes into the record has no past, also where one of its name was before.
func TestAddedReplicaHasNoPast(t *testing.T) {
	s := must(t, served(t), remove(2, "b"), add(3, "b", 1, 3), removeReplica(4, "b"), addReplica(5, "b", 1))
	r := s.Resources["r"]
	if got, _ := r.Replica("b"); got != (Replica{Node: "b", Slot: 1, Path: "/new", AddedAt: 6}) {
		t.Errorf("b is %+v", got)
	}
	if r.Generation != 6 || !slices.Equal(r.InSync, []string{"a", "c"}) || r.Primary != "a" {
		t.Errorf("record %+v", r)
	}
	if got := must(t, s, add(6, "b", 1, 6)).Resources["r"]; !slices.Equal(got.InSync, []string{"a", "b", "c"}) {
		t.Errorf("in sync are %v", got.InSync)
	}
}

// What a removed replica was compared by tells nothing about one that comes later under its name.
func TestRemovalOfAForksPeer(t *testing.T) {
	s := must(t, five(t), addReplica(2, "d", 3), remove(3, "c"), force(4, "c", 1, 4))
	if got, _ := s.Resources["r"].Replica("b"); got.Fork.Base != 4 || got.Fork.Peer != "c" {
		t.Fatalf("b has fork %+v", got.Fork)
	}
	s = must(t, s, AddInSync{Resource: "r", Generation: 5, Proposer: "c", ProposerInc: 1, Target: "d", TargetInc: 1}, demote(6, "c", true),
		promote(7, "d", 1), removeReplica(8, "c"))
	if got, _ := s.Resources["r"].Replica("b"); got.Fork.Base != 0 || got.Fork.At != 5 {
		t.Errorf("b has fork %+v", got.Fork)
	}
}

func TestFreeSlot(t *testing.T) {
	r := &Resource{}
	for want := range maxReplicas {
		if got := r.FreeSlot(); got != want {
			t.Fatalf("%d of %+v", got, r.Replicas)
		}
		r.Replicas = append(r.Replicas, Replica{Slot: want})
	}
	if got := r.FreeSlot(); got != -1 {
		t.Errorf("slot %d of a full record", got)
	}
	r.Replicas = slices.Delete(r.Replicas, 3, 4)
	if got := r.FreeSlot(); got != 3 {
		t.Errorf("slot %d, 3 is free", got)
	}
}
