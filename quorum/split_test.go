package quorum

import (
	"fmt"
	"slices"
	"testing"
)

func force(generation uint64, node string, incarnation, base uint64) Force {
	return Force{Resource: "r", Generation: generation, Node: node, Incarnation: incarnation, Base: base, Now: now, Reason: "test"}
}

func keep(generation uint64, node, undo string) ResolveSplit {
	return ResolveSplit{Resource: "r", Generation: generation, Keep: node, Undo: undo, Now: now}
}

// alone is the record with a alone in sync and Primary: b left in generation 3, c in 4.
func alone(t *testing.T) *State { return must(t, served(t), remove(2, "b"), remove(3, "c")) }

// split is the record after b was forced in generation 5.
func split(t *testing.T) *State { return must(t, alone(t), force(4, "b", 1, 3)) }

// splitOfTwo is the record after c was forced in generation 4, with a and b in sync until then.
func splitOfTwo(t *testing.T) *State { return must(t, served(t), remove(2, "c"), force(3, "c", 1, 3)) }

func TestForceGuards(t *testing.T) {
	with := func(build func(*testing.T) *State, more ...Command) func(*testing.T) *State {
		return func(t *testing.T) *State { return must(t, build(t), more...) }
	}
	demoted := with(split, Demote{Resource: "r", Generation: 5, Node: "b", Incarnation: 1, Clean: true})
	tests := []struct {
		name  string
		state func(*testing.T) *State
		c     Command
		want  code
		why   string
	}{
		{"force of one outside the set", alone, force(4, "b", 1, 3), codeOK, ""},
		{"force of one whose metadata know nothing", alone, force(4, "b", 1, 0), codeOK, ""},
		{"force of one that was never in the set", with(cluster, create("a")), force(1, "b", 1, 0), codeOK, ""},
		{"force of one that restarted while another kept its cache", with(served, register("b", 2, 2)), force(2, "b", 2, 0), codeOK, ""},
		{"force of the Primary that restarted while another kept its cache", with(served, register("a", 2, 2)), force(2, "a", 2, 0), codeOK, ""},
		{"force of a fenced one", with(served, promote(2, "b", 1)), force(3, "a", 1, 3), codeOK, ""},
		{"force of one that can be promoted", served, force(2, "b", 1, 0), codeRefused, "without force"},
		{"force with a stale generation", alone, force(3, "b", 1, 3), codeStale, "generation 4"},
		{"force of an unknown resource", alone, Force{Resource: "x"}, codeRefused, "no resource"},
		{"force of an unknown node", alone, force(4, "z", 1, 0), codeRefused, "not a node"},
		{"force of a node without a replica", alone, force(4, "w", 1, 0), codeRefused, "no replica"},
		{"force by an old incarnation", with(alone, register("b", 2, 1)), force(4, "b", 1, 3), codeRefused, "incarnation 2"},
		{"force of the Primary", alone, force(4, "a", 1, 0), codeRefused, "Primary already"},
		{"force of a diskless Primary", with(served, detach(2)), force(3, "a", 1, 0), codeRefused, "Primary already"},
		{"force of one that claims a promise to come", alone, Force{Resource: "r", Generation: 4, Node: "b", Incarnation: 1, Promised: 5}, codeRefused, "promised generation 5"},
		{"force with a base at which it did not leave", alone, force(4, "b", 1, 4), codeRefused, "did not leave"},
		{"force with a base of a member", with(served, register("b", 2, 2)), force(2, "b", 2, 1), codeRefused, "did not leave"},
		{"force of the side that was given up", with(split, register("a", 2, 1)), force(5, "a", 2, 5), codeRefused, "split resolve r --keep a"},
		{"force of a third one, during a split", split, force(5, "c", 1, 4), codeOK, ""},

		{"keep the forced side", split, keep(5, "b", ""), codeOK, ""},
		{"keep the forced side, undo file named", split, keep(5, "b", "/undo"), codeOK, ""},
		{"keep it once more, with another undo file", with(split, keep(5, "b", "/undo")), keep(6, "b", "/undo2"), codeOK, ""},
		{"keep it once more, with the same", with(split, keep(5, "b", "/undo")), keep(6, "b", "/undo"), codeRefused, "no split"},
		{"keep the other side", demoted, keep(6, "a", ""), codeOK, ""},
		{"keep the other side beside a Primary", split, keep(5, "a", ""), codeRefused, "duet secondary r"},
		{"keep the other side, the Primary has restarted", with(split, register("b", 2, 1)), keep(5, "a", ""), codeOK, ""},
		{"keep the other side, nobody reaches the Primary", split, ResolveSplit{Resource: "r", Generation: 5, Keep: "a", Fence: true}, codeOK, ""},
		{"keep the other side when it is being overwritten", with(demoted, keep(6, "b", "")), keep(7, "a", ""), codeRefused, "undo file"},
		{"keep a side that is none", split, keep(5, "c", ""), codeRefused, "neither"},
		{"keep a node without a replica", split, keep(5, "w", ""), codeRefused, "no replica"},
		{"keep without a split", served, keep(2, "a", ""), codeRefused, "no split"},
		{"keep with a stale generation", split, keep(4, "b", ""), codeStale, ""},
		{"keep with a relative path", split, keep(5, "b", "undo"), codeRefused, "begin with /"},
		{"add of a fork that was not given up", split, AddInSync{Resource: "r", Generation: 5, Proposer: "b", ProposerInc: 1, Target: "a",
			TargetInc: 1, TargetPromised: 5}, codeRefused, "split"},
		{"add of a fork that was given up", with(split, keep(5, "b", "")), AddInSync{Resource: "r", Generation: 6, Proposer: "b", ProposerInc: 1,
			Target: "a", TargetInc: 1, TargetPromised: 6}, codeOK, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { checkOutcome(t, tt.state(t), tt.c, tt.want, tt.why) })
	}
}

func TestForceEffects(t *testing.T) {
	demote := func(generation uint64, node string) Demote {
		return Demote{Resource: "r", Generation: generation, Node: node, Incarnation: 1, Clean: true}
	}
	addTo := func(generation uint64, primary, target string) AddInSync {
		return AddInSync{Resource: "r", Generation: generation, Proposer: primary, ProposerInc: 1, Target: target, TargetInc: 1, TargetPromised: generation}
	}
	type forks map[string]string
	tests := []struct {
		name     string
		state    func(*testing.T) *State
		commands []Command
		primary  string
		inSync   []string
		losses   uint64
		forcedAt uint64
		forks    forks // "at peer base forced, discarded at undo"
	}{
		{"forced", split, nil, "b", []string{"b"}, 1, 5, forks{"a": "5 b 3 false, 0 "}},
		{"forced by one whose metadata know nothing", alone, []Command{force(4, "b", 1, 0)}, "b", []string{"b"}, 1, 5, forks{"a": "5 b 0 false, 0 "}},
		{"forced against two", splitOfTwo, nil, "c", []string{"c"}, 1, 4, forks{"a": "4 c 3 false, 0 ", "b": "4 c 3 false, 0 "}},
		{"the third one comes in", split, []Command{addTo(5, "b", "c")}, "b", []string{"b", "c"}, 1, 5, forks{"a": "5 b 3 false, 0 "}},
		{"forced twice", split, []Command{force(5, "c", 1, 4)}, "c", []string{"c"}, 2, 6, forks{"a": "5 b 3 false, 0 ", "b": "6 c 4 false, 0 "}},
		{"the forced side kept", split, []Command{keep(5, "b", "/undo")}, "b", []string{"b"}, 1, 5, forks{"a": "5 b 3 false, 6 /undo"}},
		{"the loser comes in", split, []Command{keep(5, "b", ""), addTo(6, "b", "a")}, "b", []string{"a", "b"}, 1, 5, forks{}},
		{"the loser's disk replaced", split, []Command{keep(5, "b", ""), ReplaceDisk{Resource: "r", Generation: 6, Node: "a", Incarnation: 1, Path: "/new"}},
			"b", []string{"b"}, 1, 5, forks{}},
		{"the other side kept", split, []Command{demote(5, "b"), keep(6, "a", "")}, "", []string{"a"}, 2, 7, forks{"b": "5 a 3 true, 7 "}},
		{"the other side kept, two are given up", split, []Command{addTo(5, "b", "c"), demote(6, "b"), keep(7, "a", "")}, "", []string{"a"}, 2, 8,
			forks{"b": "5 a 3 true, 8 ", "c": "5 a 0 true, 8 "}},
		{"the other side of two kept", splitOfTwo, []Command{demote(4, "c"), keep(5, "a", "")}, "", []string{"a"}, 2, 6, forks{"c": "4 a 3 true, 6 "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := must(t, tt.state(t), tt.commands...).Resources["r"]
			if r.Primary != tt.primary || !slices.Equal(r.InSync, tt.inSync) || r.LossCount != tt.losses || r.ForcedAt != tt.forcedAt || r.Clean {
				t.Errorf("Primary %q, in sync %v, losses %d, forced at %d, clean %v", r.Primary, r.InSync, r.LossCount, r.ForcedAt, r.Clean)
			}
			got := forks{}
			for _, p := range r.Forks() {
				got[p.Node] = fmt.Sprintf("%d %s %d %v, %d %s", p.Fork.At, p.Fork.Peer, p.Fork.Base, p.Fork.Forced, p.Discard.At, p.Discard.Undo)
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.forks) {
				t.Errorf("forks %v, want %v", got, tt.forks)
			}
		})
	}
	h := split(t).Resources["r"].History
	if newest := h[len(h)-1]; !newest.Forced || newest.Kind != "force" || newest.Time != now {
		t.Errorf("history ends with %+v", newest)
	}
	if p, _ := split(t).Resources["r"].Replica("a"); !p.Fenced || p.FencedAt != 5 || p.LeftAt != 5 {
		t.Errorf("the former Primary: %+v", p)
	}
	fenced := must(t, split(t), ResolveSplit{Resource: "r", Generation: 5, Keep: "a", Fence: true}).Resources["r"]
	if p, _ := fenced.Replica("b"); !p.Fenced || p.FencedAt != 6 {
		t.Errorf("the Primary that nobody reached: %+v", p)
	}
}
