package quorum

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const (
	now  = int64(1_000_000)
	size = uint64(1 << 30)
)

var testID = ResourceID{0xd0, 0xe7}

// cluster is a record with data nodes a, b, c (incarnation 1, boot "boot-NODE-1") and the witness w.
func cluster(t *testing.T) *State {
	t.Helper()
	s := must(t, newState(), InitCluster{ClusterID: "test", Node: "a", Address: "a:7600", Kind: Data})
	for _, node := range []string{"b", "c", "w"} {
		kind := Data
		if node == "w" {
			kind = Witness
		}
		s = must(t, s, AddToken{ID: "token-" + node, Expires: now + 60, Now: now})
		s = must(t, s, JoinNode{Token: "token-" + node, Now: now, Node: node, Address: node + ":7600", Kind: kind})
	}
	for _, node := range []string{"a", "b", "c", "w"} {
		s = boot(t, s, node, 1, 1)
	}
	return s
}

// boot registers an incarnation of node on the given boot of its machine.
func boot(t *testing.T, s *State, node string, incarnation uint64, machine int) *State {
	t.Helper()
	return must(t, s, RegisterNode{
		Node: node, Incarnation: incarnation, RunID: "run", BootID: "boot-" + node + "-" + string(rune('0'+machine)),
		Address: node + ":7600", NBDAddress: node + ":10809",
	})
}

// create is the command for resource r on a, b and c.
func create(inSync ...string) CreateResource {
	return CreateResource{
		Name: "r", ID: testID, SizeBytes: size, InSync: inSync, JustCreated: len(inSync) > 1,
		Replicas:  []NewReplica{{Node: "a", Slot: 0, Path: "/a"}, {Node: "b", Slot: 1, Path: "/b"}, {Node: "c", Slot: 2, Path: "/c"}},
		Promotion: PromotionAuto, Preferred: "a",
	}
}

// must applies commands that have to be accepted.
func must(t *testing.T, s *State, commands ...Command) *State {
	t.Helper()
	for _, c := range commands {
		next, out := apply(s, c)
		if out.Code != codeOK {
			t.Fatalf("%s %+v: %s %s", c.kind(), c, out.Code, out.Reason)
		}
		s = next
	}
	return s
}

// served is the record with resource r in sync on a, b, c and a Primary since generation 2, not clean any more.
func served(t *testing.T) *State {
	t.Helper()
	return must(t, cluster(t), create("a", "b", "c"), promote(1, "a", 1))
}

func promote(generation uint64, node string, incarnation uint64) Promote {
	return Promote{Resource: "r", Generation: generation, Node: node, Incarnation: incarnation, Reason: "test"}
}

func demote(generation uint64, node string, clean bool) Demote {
	return Demote{Resource: "r", Generation: generation, Node: node, Incarnation: 1, Clean: clean}
}

func switchTo(generation uint64, target string, targetInc uint64) Switch {
	return Switch{Resource: "r", Generation: generation, Node: "a", Incarnation: 1, Target: target, TargetInc: targetInc, Reason: "test"}
}

func remove(generation uint64, target string) RemoveInSync {
	return RemoveInSync{Resource: "r", Generation: generation, Proposer: "a", ProposerInc: 1, Target: target}
}

func add(generation uint64, target string, targetInc, promised uint64) AddInSync {
	return AddInSync{Resource: "r", Generation: generation, Proposer: "a", ProposerInc: 1,
		Target: target, TargetInc: targetInc, TargetPromised: promised}
}

func detach(generation uint64) Detach {
	return Detach{Resource: "r", Generation: generation, Proposer: "a", ProposerInc: 1}
}

func replaceDisk(generation uint64, node, path string) ReplaceDisk {
	return ReplaceDisk{Resource: "r", Generation: generation, Node: node, Incarnation: 1, Path: path}
}

// A replaced disk is one that was never in sync, whatever its replica was.
func TestReplaceDisk(t *testing.T) {
	s := must(t, served(t), remove(2, "b"), replaceDisk(3, "b", "/dev/new"))
	r := s.Resources["r"]
	got := r.replica("b")
	if got.Path != "/dev/new" || got.Metadata != "" || got.LeftAt != 4 || got.AdmittedAt != 0 || got.Promised != 0 || r.IsInSync("b") || r.Generation != 4 {
		t.Errorf("%+v in generation %d", got, r.Generation)
	}
	if last := r.History[len(r.History)-1]; last.Kind != "replace-disk" || !strings.Contains(last.Reason, "/dev/new") {
		t.Errorf("history says %+v", last)
	}
}

func TestGuards(t *testing.T) {
	with := func(build func(*testing.T) *State, more ...Command) func(*testing.T) *State {
		return func(t *testing.T) *State { return must(t, build(t), more...) }
	}
	clean := with(cluster, create("a", "b"))
	tests := []struct {
		name  string
		state func(*testing.T) *State
		c     Command
		want  code
		why   string // part of the reason
	}{
		{"promote from clean", clean, promote(1, "a", 1), codeOK, ""},
		{"promote where the operator holds it, nobody asks", with(served, Demote{Resource: "r", Generation: 2, Node: "a", Incarnation: 1, Clean: true, Hold: true}),
			Promote{Resource: "r", Generation: 3, Node: "b", Incarnation: 1, Auto: true}, codeRefused, "operator holds"},
		{"promote where the operator holds it", with(served, Demote{Resource: "r", Generation: 2, Node: "a", Incarnation: 1, Clean: true, Hold: true}),
			promote(3, "b", 1), codeOK, ""},
		{"promote without hold, nobody asks", with(served, Demote{Resource: "r", Generation: 2, Node: "a", Incarnation: 1, Clean: true}),
			Promote{Resource: "r", Generation: 3, Node: "b", Incarnation: 1, Auto: true}, codeOK, ""},
		{"promote with a stale generation", served, promote(1, "b", 1), codeStale, "generation 2"},
		{"promote with a generation to come", served, promote(3, "b", 1), codeStale, "generation 2"},
		{"promote of an unknown resource", clean, Promote{Resource: "x"}, codeRefused, "no resource"},
		{"promote of an unknown node", clean, promote(1, "z", 1), codeRefused, "not a node"},
		{"promote of a node outside the set", clean, promote(1, "c", 1), codeRefused, "not in sync"},
		{"promote of a node without a replica", clean, promote(1, "w", 1), codeRefused, "no replica"},
		{"promote with an old incarnation", with(clean, register("b", 2, 1)), promote(1, "b", 1), codeRefused, "incarnation 2"},
		{"promote of a fenced node", with(served, promote(2, "b", 1)), promote(3, "a", 1), codeRefused, "fenced"},
		{"promote of the Primary again", served, promote(2, "a", 1), codeRefused, "Primary already"},
		{"promote of the only one that restarted", with(served, register("b", 2, 2)), promote(2, "b", 2), codeRefused, "restarted"},
		{"promote of one that did not restart", with(served, register("b", 2, 2)), promote(2, "c", 1), codeOK, ""},
		{"promote of a restarted process", with(served, register("b", 2, 1)), promote(2, "b", 2), codeOK, ""},
		{"promote when all restarted", with(served, register("a", 2, 2), register("b", 2, 2), register("c", 2, 2)),
			promote(2, "b", 2), codeOK, ""},
		{"promote of the one that restarted, after a clean demotion", with(served, demote(2, "a", true), register("b", 2, 2)),
			promote(3, "b", 2), codeOK, ""},
		{"promote of the one that restarted, after an unclean demotion", with(served, demote(2, "a", false), register("b", 2, 2)),
			promote(3, "b", 2), codeRefused, "restarted"},

		{"demote", served, demote(2, "a", true), codeOK, ""},
		{"demote with a stale generation", served, demote(1, "a", true), codeStale, ""},
		{"demote of a Secondary", served, demote(2, "b", true), codeRefused, "Primary of r is a"},
		{"switch", served, switchTo(2, "b", 1), codeOK, ""},
		{"switch with a stale generation", served, switchTo(1, "b", 1), codeStale, "generation 2"},
		{"switch without a Primary", clean, switchTo(1, "b", 1), codeRefused, "no Primary"},
		{"switch by another node", served, Switch{Resource: "r", Generation: 2, Node: "b", Incarnation: 1, Target: "c", TargetInc: 1}, codeRefused, "the Primary of r is a"},
		{"switch by another incarnation", served, Switch{Resource: "r", Generation: 2, Node: "a", Incarnation: 2, Target: "b", TargetInc: 1}, codeRefused, "incarnation 1"},
		{"switch to itself", served, switchTo(2, "a", 1), codeRefused, "Primary already"},
		{"switch to a node without a replica", served, switchTo(2, "w", 1), codeRefused, "not in sync"},
		{"switch to an unknown node", served, switchTo(2, "x", 1), codeRefused, "not a node"},
		{"switch to one that left the set", with(served, remove(2, "b")), switchTo(3, "b", 1), codeRefused, "not in sync"},
		{"switch to an earlier incarnation", with(served, register("b", 2, 1)), switchTo(2, "b", 1), codeRefused, "incarnation 2"},
		{"switch to a restarted process", with(served, register("b", 2, 1)), switchTo(2, "b", 2), codeOK, ""},
		{"switch to a restarted machine", with(served, register("b", 2, 2)), switchTo(2, "b", 2), codeRefused, "restarted"},
		{"switch from a diskless Primary", with(served, detach(2)), switchTo(3, "b", 1), codeOK, ""},
		{"demote by another incarnation", served, Demote{Resource: "r", Generation: 2, Node: "a", Incarnation: 2}, codeRefused, "incarnation 1"},
		{"demote without a Primary", clean, demote(1, "a", true), codeRefused, "no Primary"},

		{"remove", served, remove(2, "b"), codeOK, ""},
		{"remove with a stale generation", served, remove(1, "b"), codeStale, ""},
		{"remove of one that is not in the set", with(served, remove(2, "b")), remove(3, "b"), codeOK, ""},
		{"remove of the last member", with(served, remove(2, "b"), remove(3, "c"), AddInSync{Resource: "r", Generation: 4,
			Proposer: "a", ProposerInc: 1, Target: "b", TargetInc: 1}, detach(5)), remove(6, "b"), codeRefused, "last"},
		{"remove of the Primary itself", served, remove(2, "a"), codeRefused, "detaching"},
		{"remove of a node without a replica", served, remove(2, "w"), codeRefused, "no replica"},
		{"remove by a Secondary", served, RemoveInSync{Resource: "r", Generation: 2, Proposer: "b", ProposerInc: 1, Target: "c"}, codeRefused, "Primary of r is a"},
		{"remove by an old incarnation", served, RemoveInSync{Resource: "r", Generation: 2, Proposer: "a", ProposerInc: 9, Target: "c"}, codeRefused, "incarnation 1"},

		{"add", with(served, remove(2, "b")), add(3, "b", 1, 0), codeOK, ""},
		{"late add after a bump", with(served, remove(2, "b"), remove(3, "b")), add(3, "b", 1, 0), codeStale, ""},
		{"add with an old incarnation", with(served, remove(2, "b"), register("b", 2, 1)), add(3, "b", 1, 0), codeRefused, "incarnation 2"},
		{"add of a member", served, add(2, "b", 1, 0), codeRefused, "already"},
		{"add of a node without a replica", served, add(2, "w", 1, 0), codeRefused, "no replica"},
		{"add by a former Primary", with(served, promote(2, "b", 1)), add(3, "c", 1, 3), codeRefused, "Primary of r is b"},
		{"add of the fenced one that has not promised", with(served, promote(2, "b", 1)),
			AddInSync{Resource: "r", Generation: 3, Proposer: "b", ProposerInc: 1, Target: "a", TargetInc: 1, TargetPromised: 2}, codeRefused, "fenced"},
		{"add of one that has promised what there is not", with(served, remove(2, "b")), add(3, "b", 1, 4), codeRefused, "can't have promised"},
		{"add of the fenced one that has promised", with(served, promote(2, "b", 1)),
			AddInSync{Resource: "r", Generation: 3, Proposer: "b", ProposerInc: 1, Target: "a", TargetInc: 1, TargetPromised: 3}, codeOK, ""},

		{"detach", served, detach(2), codeOK, ""},
		{"detach twice", with(served, detach(2)), detach(3), codeRefused, "nothing to detach"},
		{"detach of the last member", with(served, remove(2, "b"), remove(3, "c")), detach(4), codeRefused, "last"},
		{"detach by another", served, Detach{Resource: "r", Generation: 2, Proposer: "b", ProposerInc: 1}, codeRefused, "Primary of r is a"},
		{"restart of a diskless Primary", with(served, detach(2), register("a", 2, 1)), promote(3, "a", 2), codeRefused, "not in sync"},

		{"replace a disk", with(served, remove(2, "b")), replaceDisk(3, "b", "/dev/new"), codeOK, ""},
		{"replace the disk of the Primary", with(served, detach(2)), replaceDisk(3, "a", "/dev/new"), codeOK, ""},
		{"replace a disk in sync", served, replaceDisk(2, "b", "/dev/new"), codeRefused, "in sync"},
		{"replace a disk without a path", with(served, remove(2, "b")), replaceDisk(3, "b", ""), codeRefused, "needs a path"},
		{"replace a disk that is not there", with(served, remove(2, "b")), replaceDisk(3, "w", "/dev/new"), codeRefused, "no replica"},
		{"replace a disk by an old process", with(served, remove(2, "b"), register("b", 2, 1)), replaceDisk(3, "b", "/dev/new"), codeRefused, "incarnation 2"},
		{"replace a disk late", with(served, remove(2, "b"), remove(3, "b")), replaceDisk(3, "b", "/dev/new"), codeStale, ""},
		{"late add after a replacement", with(served, remove(2, "b"), replaceDisk(3, "b", "/dev/new")), add(3, "b", 1, 0), codeStale, ""},

		{"grow", with(cluster, create("a", "b", "c")), growTo(1, 2*size, true), codeOK, ""},
		{"grow with a Primary", served, growTo(2, 2*size, true), codeOK, ""},
		{"grow apart", served, growTo(2, 2*size, false), codeOK, ""},
		{"grow apart without a Primary", with(cluster, create("a", "b", "c")), growTo(1, 2*size, false), codeRefused, "no Primary"},
		{"grow apart, the Primary has restarted", with(served, register("a", 2, 1)),
			growWith(growTo(2, 2*size, false), "a", 2), codeRefused, "no Primary"},
		{"grow with a stale generation", served, growTo(1, 2*size, true), codeStale, "generation 2"},
		{"grow twice", with(served, growTo(2, 2*size, true)), growTo(2, 2*size, true), codeStale, "generation 3"},
		{"grow of an unknown resource", cluster, growTo(1, 2*size, true), codeRefused, "no resource"},
		{"grow to less", served, growTo(2, size-4096, true), codeRefused, "smaller"},
		{"grow to the same", served, growTo(2, size, true), codeRefused, "smaller"},
		{"grow to no multiple of a block", served, growTo(2, 2*size+512, true), codeRefused, "multiple"},
		{"grow out of reach", served, growTo(2, 1<<50+4096, true), codeRefused, "above"},
		{"grow with a replica outside the set", with(served, remove(2, "b")), growTo(3, 2*size, true), codeRefused, "b is not in sync"},
		{"grow prepared by a process that is gone", with(served, register("b", 2, 1)), growTo(2, 2*size, true), codeRefused, "incarnation 2"},
		{"grow prepared by too few", served, growWith(growTo(2, 2*size, true), "b", 0), codeRefused, "2 replicas"},
		{"grow prepared by too many", served, growWith(growTo(2, 2*size, true), "w", 1), codeRefused, "4 replicas"},
		{"grow prepared by another", served, growWith(growWith(growTo(2, 2*size, true), "b", 0), "w", 1), codeRefused, "b has not made room"},

		{"delete", clean, DeleteResource{Resource: "r", Generation: 1}, codeOK, ""},
		{"delete with a stale generation", clean, DeleteResource{Resource: "r", Generation: 2}, codeStale, ""},
		{"delete of one that has a Primary", served, DeleteResource{Resource: "r", Generation: 2}, codeRefused, "a is the Primary"},
		{"delete of one whose Primary has restarted", with(served, register("a", 2, 2)), DeleteResource{Resource: "r", Generation: 2}, codeOK, ""},

		{"register", cluster, register("a", 2, 1), codeOK, ""},
		{"register a lower incarnation", with(cluster, register("a", 5, 1)), register("a", 4, 1), codeRefused, "restored"},
		{"register the same incarnation of another process", cluster,
			RegisterNode{Node: "a", Incarnation: 1, RunID: "other", BootID: "boot-a-1", Address: "a:7600"}, codeRefused, "restored"},
		{"register again after a lost answer", cluster, register("a", 1, 1), codeOK, ""},
		{"register of a stranger", cluster, register("z", 1, 1), codeRefused, "join"},
		{"register without a boot id", cluster, RegisterNode{Node: "a", Incarnation: 2, RunID: "run", Address: "a:1"}, codeRefused, "boot id"},
		{"register with another's address", cluster, RegisterNode{Node: "a", Incarnation: 2, RunID: "run", BootID: "x", Address: "b:7600"}, codeRefused, "of node b"},

		{"init again", cluster, InitCluster{ClusterID: "test", Node: "a", Address: "a:7600", Kind: Data}, codeOK, ""},
		{"init as another cluster", cluster, InitCluster{ClusterID: "other", Node: "a", Address: "a:7600", Kind: Data}, codeRefused, "is test already"},

		{"remove node", clean, RemoveNode{Node: "b", Generations: map[string]uint64{"r": 1}}, codeOK, ""},
		{"remove witness", clean, RemoveNode{Node: "w"}, codeOK, ""},
		{"remove node without naming its resource", clean, RemoveNode{Node: "b"}, codeStale, "does not name"},
		{"remove node with a stale generation", clean, RemoveNode{Node: "b", Generations: map[string]uint64{"r": 2}}, codeStale, ""},
		{"remove node naming too much", clean, RemoveNode{Node: "w", Generations: map[string]uint64{"r": 1}}, codeStale, "names 1"},
		{"remove the Primary's node", served, RemoveNode{Node: "a", Generations: map[string]uint64{"r": 2}}, codeRefused, "Primary"},
		{"remove the last in-sync node", with(cluster, create("b")), RemoveNode{Node: "b", Generations: map[string]uint64{"r": 1}}, codeRefused, "last in-sync"},
		{"remove a stranger", clean, RemoveNode{Node: "z"}, codeRefused, "not a node"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { checkOutcome(t, tt.state(t), tt.c, tt.want, tt.why) })
	}
}

// growTo is prepared by all replicas of r.
func growTo(generation, sizeBytes uint64, equal bool) GrowResource {
	return GrowResource{Resource: "r", Generation: generation, SizeBytes: sizeBytes, Equal: equal,
		Prepared: map[string]uint64{"a": 1, "b": 1, "c": 1}}
}

// growWith changes who has prepared it; incarnation 0 takes the node out.
func growWith(c GrowResource, node string, incarnation uint64) GrowResource {
	c.Prepared = maps.Clone(c.Prepared)
	if c.Prepared[node] = incarnation; incarnation == 0 {
		delete(c.Prepared, node)
	}
	return c
}

func register(node string, incarnation uint64, machine int) RegisterNode {
	return RegisterNode{
		Node: node, Incarnation: incarnation, RunID: "run", BootID: "boot-" + node + "-" + string(rune('0'+machine)),
		Address: node + ":7600",
	}
}

// checkOutcome applies c and checks the code and the reason, and that a command that is not accepted changes nothing.
func checkOutcome(t *testing.T, s *State, c Command, want code, why string) {
	t.Helper()
	before, err := encodeSnapshot(s, 0)
	if err != nil {
		t.Fatal(err)
	}
	next, out := apply(s, c)
	if out.Code != want || !strings.Contains(out.Reason, why) {
		t.Errorf("got %s %q, want %s %q", out.Code, out.Reason, want, why)
	}
	if want != codeOK && next != s {
		t.Error("a command that was not accepted led to another state")
	}
	if err := next.check(); err != nil {
		t.Errorf("the resulting state is illegal: %v", err)
	}
	if after, err := encodeSnapshot(s, 0); err != nil || !slices.Equal(before, after) {
		t.Errorf("apply changed the state it was given (%v)", err)
	}
}

func TestTokenGuards(t *testing.T) {
	issued := func(t *testing.T) *State {
		return must(t, cluster(t), AddToken{ID: "t", Expires: now + 60, Now: now})
	}
	used := func(t *testing.T) *State { return must(t, issued(t), join("t", "d", now)) }
	tests := []struct {
		name  string
		state func(*testing.T) *State
		c     Command
		want  code
		why   string
	}{
		{"join", issued, join("t", "d", now+59), codeOK, ""},
		{"token used twice", used, join("t", "e", now), codeRefused, "used already, by d"},
		{"token used twice by the same node", used, join("t", "d", now), codeRefused, "used already"},
		{"token expired", issued, join("t", "d", now+60), codeRefused, "expired"},
		{"token unknown", issued, join("u", "d", now), codeRefused, "unknown"},
		{"token issued twice", issued, AddToken{ID: "t", Expires: now + 60, Now: now}, codeRefused, "exists"},
		{"token born expired", issued, AddToken{ID: "u", Expires: now, Now: now}, codeRefused, "expired"},
		{"token without an id", issued, AddToken{Expires: now + 60, Now: now}, codeRefused, "id"},
		{"token forgotten a day after it expired",
			func(t *testing.T) *State {
				return must(t, issued(t), AddToken{ID: "u", Expires: now + 200_000, Now: now + 100_000})
			}, join("t", "d", now), codeRefused, "unknown"},
		{"join under a bad name", issued, join("t", "../d", now), codeRefused, "letters"},
		{"join without a name", issued, join("t", "", now), codeRefused, "name"},
		{"join of an unknown kind", issued, JoinNode{Token: "t", Now: now, Node: "d", Address: "d:1", Kind: "king"}, codeRefused, "kind"},
		{"join with another's address", issued, JoinNode{Token: "t", Now: now, Node: "d", Address: "a:7600", Kind: Data}, codeRefused, "of node a"},
		{"join again while in sync", func(t *testing.T) *State { return must(t, issued(t), create("b")) }, join("t", "b", now), codeRefused, "in sync"},
		{"join again while Primary", func(t *testing.T) *State {
			return must(t, issued(t), create("a", "b"), promote(1, "a", 1), detach(2))
		}, join("t", "a", now), codeRefused, "Primary"},
		{"join again while outdated", func(t *testing.T) *State { return must(t, issued(t), create("a")) }, join("t", "b", now), codeOK, ""},
		{"join again as a witness", func(t *testing.T) *State { return must(t, issued(t), create("a")) },
			JoinNode{Token: "t", Now: now, Node: "b", Address: "b:7600", Kind: Witness}, codeRefused, "witness"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { checkOutcome(t, tt.state(t), tt.c, tt.want, tt.why) })
	}
}

func join(token, node string, at int64) JoinNode {
	return JoinNode{Token: token, Now: at, Node: node, Address: node + ":7600", Kind: Data}
}

func TestCreateGuards(t *testing.T) {
	tests := []struct {
		name   string
		change func(*CreateResource)
		want   code
		why    string
	}{
		{"as it should be", func(*CreateResource) {}, codeOK, ""},
		{"duplicate name", func(c *CreateResource) { c.Name = "taken" }, codeRefused, "exists"},
		{"bad name", func(c *CreateResource) { c.Name = "a/b" }, codeRefused, "letters"},
		{"long name", func(c *CreateResource) { c.Name = strings.Repeat("x", 64) }, codeRefused, "63"},
		{"no id", func(c *CreateResource) { c.ID = ResourceID{} }, codeRefused, "id"},
		{"id of another", func(c *CreateResource) { c.ID = ResourceID{1} }, codeRefused, "resource taken"},
		{"no size", func(c *CreateResource) { c.SizeBytes = 0 }, codeRefused, "size"},
		{"unknown policy", func(c *CreateResource) { c.Promotion = "maybe" }, codeRefused, "policy"},
		{"no replicas", func(c *CreateResource) { c.Replicas = nil }, codeRefused, "replicas"},
		{"unknown node", func(c *CreateResource) { c.Replicas[1].Node = "z" }, codeRefused, "not a node"},
		{"witness", func(c *CreateResource) { c.Replicas[1].Node = "w" }, codeRefused, "witness"},
		{"node twice", func(c *CreateResource) { c.Replicas[1].Node = "a" }, codeRefused, "twice"},
		{"slot too high", func(c *CreateResource) { c.Replicas[1].Slot = 8 }, codeRefused, "slot 8"},
		{"slot negative", func(c *CreateResource) { c.Replicas[1].Slot = -1 }, codeRefused, "slot -1"},
		{"slot twice", func(c *CreateResource) { c.Replicas[1].Slot = 0 }, codeRefused, "slot 0"},
		{"no path", func(c *CreateResource) { c.Replicas[1].Path = "" }, codeRefused, "path"},
		{"long path", func(c *CreateResource) { c.Replicas[1].Path = strings.Repeat("x", 2000) }, codeRefused, "path"},
		{"nobody in sync", func(c *CreateResource) { c.InSync = nil }, codeRefused, "empty"},
		{"a stranger in sync", func(c *CreateResource) { c.InSync = []string{"w"} }, codeRefused, "not a set"},
		{"one twice in sync", func(c *CreateResource) { c.InSync = []string{"a", "a"} }, codeRefused, "not a set"},
		{"two in sync without a ground", func(c *CreateResource) { c.JustCreated = false }, codeRefused, "equal"},
		{"two in sync on the operator's word", func(c *CreateResource) { c.JustCreated, c.AssumeClean = false, true }, codeOK, ""},
		{"one in sync without a ground", func(c *CreateResource) { c.JustCreated, c.InSync = false, []string{"b"} }, codeOK, ""},
		{"unknown preferred node", func(c *CreateResource) { c.Preferred = "w" }, codeRefused, "preferred"},
	}
	taken := create("a")
	taken.Name, taken.ID = "taken", ResourceID{1}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := create("b", "a")
			tt.change(&c)
			checkOutcome(t, must(t, cluster(t), taken), c, tt.want, tt.why)
		})
	}
	t.Run("a node that never ran", func(t *testing.T) {
		s := must(t, cluster(t), AddToken{ID: "t", Expires: now + 60, Now: now}, join("t", "d", now))
		c := create("a")
		c.Replicas[2].Node = "d"
		checkOutcome(t, s, c, codeRefused, "never run")
	})
}

func TestEffects(t *testing.T) {
	tests := []struct {
		name     string
		commands []Command
		check    func(t *testing.T, r *Resource)
	}{
		{"growth", []Command{promote(1, "a", 1), add(2, "c", 1, 2), growTo(3, 2*size, true)}, func(t *testing.T, r *Resource) {
			if r.SizeBytes != 2*size || r.GrownApart || len(r.InSync) != 3 || r.Generation != 4 || r.Primary != "a" || r.PrimarySince != 2 {
				t.Errorf("record %+v", r)
			}
		}},
		{"growth apart", []Command{promote(1, "a", 1), add(2, "c", 1, 2), growTo(3, 2*size, false)}, func(t *testing.T, r *Resource) {
			b, _ := r.Replica("b")
			if r.SizeBytes != 2*size || !r.GrownApart || !slices.Equal(r.InSync, []string{"a"}) || b.LeftAt != 4 || b.Fenced {
				t.Errorf("record %+v", r)
			}
		}},
		{"growth apart, and then not", []Command{promote(1, "a", 1), add(2, "c", 1, 2), growTo(3, 2*size, false), add(4, "b", 1, 4),
			add(5, "c", 1, 5), growTo(6, 3*size, true)}, func(t *testing.T, r *Resource) {
			if r.SizeBytes != 3*size || r.GrownApart || len(r.InSync) != 3 {
				t.Errorf("record %+v", r)
			}
		}},
		{"creation", nil, func(t *testing.T, r *Resource) {
			want := Replica{Node: "b", Slot: 1, Path: "/b", AdmittedAt: 1, AdmittedBoot: "boot-b-1"}
			if got, _ := r.Replica("b"); got != want {
				t.Errorf("replica %+v, want %+v", got, want)
			}
			if got, _ := r.Replica("c"); got.AdmittedAt != 0 {
				t.Errorf("c is not in the initial set, yet admitted at %d", got.AdmittedAt)
			}
			if r.Generation != 1 || r.Primary != "" || !r.Clean || r.PrimarySince != 0 {
				t.Errorf("record %+v", r)
			}
		}},
		{"promotion from clean keeps the set", []Command{promote(1, "b", 1)}, func(t *testing.T, r *Resource) {
			inSync(t, r, "a", "b")
			if r.Primary != "b" || r.PrimaryIncarnation != 1 || r.PrimarySince != 2 || r.Clean {
				t.Errorf("record %+v", r)
			}
		}},
		{"promotion over a dead Primary narrows the set and fences it", []Command{promote(1, "a", 1), promote(2, "b", 1)},
			func(t *testing.T, r *Resource) {
				inSync(t, r, "b")
				if a, _ := r.Replica("a"); a.LeftAt != 3 || !a.Fenced || a.FencedAt != 3 {
					t.Errorf("a is %+v", a)
				}
				if r.LossCount != 0 {
					t.Errorf("loss count %d", r.LossCount)
				}
			}},
		{"a diskless Primary is fenced too", []Command{promote(1, "a", 1), detach(2), promote(3, "b", 1)},
			func(t *testing.T, r *Resource) {
				if a, _ := r.Replica("a"); a.LeftAt != 3 || a.FencedAt != 4 {
					t.Errorf("a is %+v", a)
				}
			}},
		{"clean demotion then promotion of the other keeps the set", []Command{promote(1, "a", 1), demote(2, "a", true), promote(3, "b", 1)},
			func(t *testing.T, r *Resource) {
				inSync(t, r, "a", "b")
				if a, _ := r.Replica("a"); a.Fenced || a.LeftAt != 0 {
					t.Errorf("a is %+v", a)
				}
			}},
		{"unclean demotion then promotion narrows the set", []Command{promote(1, "a", 1), demote(2, "a", false), promote(3, "b", 1)},
			func(t *testing.T, r *Resource) {
				inSync(t, r, "b")
				if a, _ := r.Replica("a"); a.Fenced || a.LeftAt != 4 {
					t.Errorf("a is %+v", a)
				}
			}},
		{"switch keeps the set and fences nobody", []Command{promote(1, "a", 1), switchTo(2, "b", 1)}, func(t *testing.T, r *Resource) {
			inSync(t, r, "a", "b")
			if r.Primary != "b" || r.PrimaryIncarnation != 1 || r.PrimarySince != 3 || r.Clean || r.LossCount != 0 {
				t.Errorf("record %+v", r)
			}
			if a, _ := r.Replica("a"); a.Fenced || a.LeftAt != 0 {
				t.Errorf("a is %+v", a)
			}
			if last := r.History[len(r.History)-1]; last.Kind != "switch" || last.Primary != "b" {
				t.Errorf("history says %+v", last)
			}
		}},
		{"the former Primary takes the role back, alone", []Command{promote(1, "a", 1), switchTo(2, "b", 1), promote(3, "a", 1)}, func(t *testing.T, r *Resource) {
			inSync(t, r, "a")
			if b, _ := r.Replica("b"); r.Primary != "a" || !b.Fenced {
				t.Errorf("record %+v, b is %+v", r, b)
			}
		}},
		{"demotion", []Command{promote(1, "a", 1), Demote{Resource: "r", Generation: 2, Node: "a", Incarnation: 1, Clean: true, Hold: true}},
			func(t *testing.T, r *Resource) {
				if r.Primary != "" || r.PrimaryIncarnation != 0 || !r.Clean || !r.Hold || r.PrimarySince != 2 {
					t.Errorf("record %+v", r)
				}
			}},
		{"promotion ends a hold", []Command{promote(1, "a", 1), Demote{Resource: "r", Generation: 2, Node: "a", Incarnation: 1, Clean: true, Hold: true},
			promote(3, "a", 1)}, func(t *testing.T, r *Resource) {
			if r.Hold {
				t.Error("still held")
			}
		}},
		{"the restarted Primary takes its role again, alone", []Command{promote(1, "a", 1), register("a", 2, 1), promote(2, "a", 2)},
			func(t *testing.T, r *Resource) {
				inSync(t, r, "a")
				last := r.History[len(r.History)-1]
				if r.PrimaryIncarnation != 2 || r.PrimarySince != 3 || last.Kind != "reacquire" || r.LossCount != 0 {
					t.Errorf("record %+v", r)
				}
				if b, _ := r.Replica("b"); b.LeftAt != 3 || b.Fenced {
					t.Errorf("b is %+v", b)
				}
			}},
		{"all restarted: the set stands, and the loss is counted", []Command{promote(1, "a", 1), register("a", 2, 2), register("b", 2, 2), promote(2, "b", 2)},
			func(t *testing.T, r *Resource) {
				inSync(t, r, "b")
				if b, _ := r.Replica("b"); r.LossCount != 1 || b.AdmittedBoot != "boot-b-2" {
					t.Errorf("loss count %d, b is %+v", r.LossCount, b)
				}
			}},
		{"all restarted after a clean demotion: nothing is lost", []Command{promote(1, "a", 1), demote(2, "a", true),
			register("a", 2, 2), register("b", 2, 2), promote(3, "a", 2)}, func(t *testing.T, r *Resource) {
			inSync(t, r, "a", "b")
			if b, _ := r.Replica("b"); r.LossCount != 0 || b.AdmittedBoot != "boot-b-2" {
				t.Errorf("loss count %d, b is %+v", r.LossCount, b)
			}
		}},
		{"removal", []Command{promote(1, "a", 1), remove(2, "b")}, func(t *testing.T, r *Resource) {
			inSync(t, r, "a")
			if b, _ := r.Replica("b"); b.LeftAt != 3 || r.Primary != "a" || r.PrimarySince != 2 {
				t.Errorf("b is %+v, record %+v", b, r)
			}
		}},
		{"a removal of one that is out leaves its mark", []Command{promote(1, "a", 1), remove(2, "b"), remove(3, "b")}, func(t *testing.T, r *Resource) {
			if b, _ := r.Replica("b"); b.LeftAt != 3 || r.Generation != 4 {
				t.Errorf("b is %+v, generation %d", b, r.Generation)
			}
		}},
		{"return", []Command{promote(1, "a", 1), remove(2, "b"), register("b", 2, 2), add(3, "b", 2, 3)}, func(t *testing.T, r *Resource) {
			inSync(t, r, "a", "b")
			want := Replica{Node: "b", Slot: 1, Path: "/b", AdmittedAt: 4, AdmittedBoot: "boot-b-2", Promised: 3}
			if b, _ := r.Replica("b"); b != want {
				t.Errorf("b is %+v, want %+v", b, want)
			}
		}},
		{"detached", []Command{promote(1, "a", 1), detach(2)}, func(t *testing.T, r *Resource) {
			inSync(t, r, "b")
			if a, _ := r.Replica("a"); a.LeftAt != 3 || r.Primary != "a" {
				t.Errorf("a is %+v, Primary %s", a, r.Primary)
			}
		}},
		{"a node that was removed is gone everywhere", []Command{RemoveNode{Node: "a", Generations: map[string]uint64{"r": 1}, Reason: "burnt"}},
			func(t *testing.T, r *Resource) {
				inSync(t, r, "b")
				if _, found := r.Replica("a"); found || r.Preferred != "" || r.Generation != 2 {
					t.Errorf("record %+v", r)
				}
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := must(t, must(t, cluster(t), create("a", "b")), tt.commands...)
			if err := s.check(); err != nil {
				t.Fatal(err)
			}
			tt.check(t, s.Resources["r"])
		})
	}
}

func inSync(t *testing.T, r *Resource, want ...string) {
	t.Helper()
	if !slices.Equal(r.InSync, want) {
		t.Errorf("in sync %v, want %v", r.InSync, want)
	}
}

// With every acknowledgement on stable media a reboot takes nothing away.
func TestDurableAcknowledgementsOutliveReboot(t *testing.T) {
	c := create("a", "b")
	c.AckDurable = true
	s := must(t, cluster(t), c, promote(1, "a", 1), register("b", 2, 2), promote(2, "b", 2))
	if r := s.Resources["r"]; r.Primary != "b" || r.LossCount != 0 {
		t.Errorf("record %+v", r)
	}
}

func TestResultCarriesRecord(t *testing.T) {
	s := served(t)
	next, out := apply(s, remove(2, "b"))
	if r := out.Result.Resource; r == nil || r.Generation != 3 || out.Result.Version != next.Version || len(r.History) != 1 {
		t.Fatalf("result %+v", out.Result)
	}
	if got := out.Result.Resource.History[0]; got.Kind != "remove-in-sync" || got.Reason != "b" {
		t.Errorf("newest change %+v", got)
	}
	if len(next.Resources["r"].History) != 3 {
		t.Errorf("the state lost its history: %+v", next.Resources["r"].History)
	}
	_, out = apply(next, remove(2, "c"))
	if r := out.Result.Resource; out.Code != codeStale || r == nil || r.Generation != 3 {
		t.Errorf("a stale command brings %s, %+v", out.Code, r)
	}
	if _, out = apply(next, DeleteResource{Resource: "nothing"}); out.Result.Resource != nil {
		t.Errorf("a record of nothing: %+v", out.Result.Resource)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	s := served(t)
	long := strings.Repeat("reason é ", 100)
	for range 2 * maxHistory {
		c := remove(s.Resources["r"].Generation, "b")
		c.Reason = long
		s = must(t, s, c)
	}
	h := s.Resources["r"].History
	if len(h) != maxHistory || h[len(h)-1].Generation != s.Resources["r"].Generation || len(h[0].Reason) > maxReason {
		t.Errorf("%d entries, newest %+v", len(h), h[len(h)-1])
	}
}

func TestErrorsCrossTheWire(t *testing.T) {
	for _, err := range []error{nil, refusef("why"), stalef("why"), ErrNoLeader, ErrUnknownOutcome, ErrClosed} {
		back := errorOf(codeOf(err), Reason(err))
		if err == nil {
			if back != nil {
				t.Errorf("nil came back as %v", back)
			}
			continue
		}
		if errors.Is(err, ErrClosed) {
			err = ErrUnknownOutcome
		}
		if !errors.Is(back, err) && !errors.Is(back, errors.Unwrap(err)) {
			t.Errorf("%v came back as %v", err, back)
		}
		if Reason(back) != Reason(err) {
			t.Errorf("reason %q came back as %q", Reason(err), Reason(back))
		}
	}
}

// Every command survives its envelope, and no two share a name.
func TestCommandsRoundTrip(t *testing.T) {
	commands := []Command{
		InitCluster{ClusterID: "x", Node: "a", Address: "a:1", Kind: Data}, register("a", 3, 1),
		AddToken{ID: "t", Expires: 2, Now: 1}, join("t", "d", 5), RemoveNode{Node: "b", Generations: map[string]uint64{"r": 7}},
		create("a", "b"), DeleteResource{Resource: "r", Generation: 4}, promote(1, "a", 2), demote(2, "a", true), switchTo(3, "b", 4),
		remove(3, "b"), add(4, "b", 1, 2), replaceDisk(3, "b", "/dev/new"), detach(5), force(6, "b", 2, 5), keep(7, "a", "/undo"), growTo(8, 2*size, true), mark{},
		addReplica(3, "d", 3), removeReplica(4, "b"), EditResource{Resource: "r", Generation: 5, Preferred: new("b")},
	}
	if len(commandDecoders()) != len(commands) {
		t.Errorf("%d decoders, %d commands here", len(commandDecoders()), len(commands))
	}
	for _, c := range commands {
		data, err := encodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeCommand(data)
		if err != nil || !reflect.DeepEqual(back, c) {
			t.Errorf("%s came back as %+v, %v", data, back, err)
		}
	}
}

func TestDecodeCommandRefuses(t *testing.T) {
	tests := []struct{ name, data, why string }{
		{"nothing", "", "EOF"},
		{"not JSON", "hello", "invalid"},
		{"another version", `{"v":2,"kind":"mark","body":{}}`, "version 2"},
		{"an unknown kind", `{"v":1,"kind":"explode","body":{}}`, "unknown command"},
		{"an unknown field of the envelope", `{"v":1,"kind":"mark","body":{},"x":1}`, "unknown field"},
		{"an unknown field of the body", `{"v":1,"kind":"promote","body":{"x":1}}`, "unknown field"},
		{"no body", `{"v":1,"kind":"promote"}`, "EOF"},
		{"something behind", `{"v":1,"kind":"mark","body":{}}{}`, "after"},
		{"too much", strings.Repeat(" ", maxCommandBytes+1), "at most"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := decodeCommand([]byte(tt.data)); err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("got %v, want %q", err, tt.why)
			}
		})
	}
}
