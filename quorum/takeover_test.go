package quorum

import (
	"strings"
	"testing"
	"time"
)

// takeoverFacts are those of c in a cluster of a, b, c and the witness w, in which a was Primary and died.
func takeoverFacts() *TakeoverFacts {
	nodes := map[string]NodeRecord{}
	for _, name := range []string{"a", "b", "c"} {
		nodes[name] = NodeRecord{Kind: Data, Incarnation: 3}
	}
	nodes["w"] = NodeRecord{Kind: Witness, Incarnation: 3}
	r := &Resource{Name: "r", Generation: 9, Primary: "a", PrimaryIncarnation: 3, Promotion: PromotionAuto, InSync: []string{"a", "b", "c"},
		History: []Change{{Generation: 8, Primary: "b"}, {Generation: 9, Primary: "a"}}}
	return &TakeoverFacts{Node: "b", Incarnation: 3, Resource: "r", State: &State{Nodes: nodes, Resources: map[string]*Resource{"r": r}},
		Liveness: Liveness{Voters: 4, Nodes: map[string]Suspicion{"a": {Suspected: true, Votes: 3}, "c": {}, "w": {}}}}
}

func (f *TakeoverFacts) record() *Resource { return f.State.Resources[f.Resource] }

// vacate leaves the resource without a Primary; a was the last.
func (f *TakeoverFacts) vacate(clean bool) {
	r := f.record()
	r.Primary, r.PrimaryIncarnation, r.Clean = "", 0, clean
	r.History = append(r.History, Change{Generation: 10})
}

func (f *TakeoverFacts) hold(name string, s Suspicion) { f.Liveness.Nodes[name] = s }

func TestDecideTakeover(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(f *TakeoverFacts)
		want   bool
		wait   time.Duration
		reason string
	}{
		{"the Primary is gone", func(*TakeoverFacts) {}, true, 0, "3 of 4"},
		{"half of the voters are no majority", func(f *TakeoverFacts) { f.hold("a", Suspicion{Suspected: true, Votes: 2}) }, false, 0, "2 of 4"},
		{"it lives", func(f *TakeoverFacts) { f.hold("a", Suspicion{}) }, false, 0, ""},
		{"all others miss it, this node hears it", func(f *TakeoverFacts) { f.hold("a", Suspicion{Votes: 3}) }, false, 0, ""},
		{"its exit is certified", func(f *TakeoverFacts) { f.hold("a", Suspicion{Suspected: true, Votes: 1, Exited: 3}) }, true, 0, "has ended"},
		{"an earlier exit is", func(f *TakeoverFacts) { f.hold("a", Suspicion{Exited: 2}) }, false, 0, ""},
		{"it runs again", func(f *TakeoverFacts) { f.hold("a", Suspicion{}); f.State.Nodes["a"] = NodeRecord{Incarnation: 4} }, true, 0, "has ended"},
		{"it runs again, and goes last", func(f *TakeoverFacts) {
			f.hold("a", Suspicion{})
			f.State.Nodes["a"] = NodeRecord{Incarnation: 4}
			f.Node, f.Incarnation = "a", 4
			f.Liveness.Nodes = map[string]Suspicion{"b": {}, "c": {}}
		}, false, 2 * time.Second, "goes first"},
		{"it is this node that runs again, alone", func(f *TakeoverFacts) {
			f.State.Nodes["a"] = NodeRecord{Incarnation: 4}
			f.Node, f.Incarnation, f.record().InSync = "a", 4, []string{"a"}
		}, true, 0, "was Primary"},
		{"this is the Primary", func(f *TakeoverFacts) { f.Node = "a" }, false, 0, ""},
		{"manual", func(f *TakeoverFacts) { f.record().Promotion = PromotionManual }, false, 0, ""},
		{"not in sync", func(f *TakeoverFacts) { f.record().InSync = []string{"a", "c"} }, false, 0, "a or c"},
		{"unusable disk", func(f *TakeoverFacts) { f.Unusable = "it is Failed" }, false, 0, "Failed"},
		{"second in turn", func(f *TakeoverFacts) { f.Node = "c"; f.hold("b", Suspicion{}) }, false, time.Second, "b goes first"},
		{"second in turn, the first is gone too", func(f *TakeoverFacts) { f.Node = "c"; f.hold("b", Suspicion{Suspected: true}) }, true, 0, ""},
		{"second in turn, later", func(f *TakeoverFacts) { f.Node = "c"; f.hold("b", Suspicion{}); f.Since = 1100 * time.Millisecond }, true, 0, ""},
		{"the preferred one", func(f *TakeoverFacts) { f.Node, f.record().Preferred = "c", "c"; f.hold("b", Suspicion{}) }, true, 0, ""},
		{"held", func(f *TakeoverFacts) { f.vacate(true); f.record().Hold = true }, false, 0, "duet primary"},
		{"stopped in good order, and away", func(f *TakeoverFacts) { f.vacate(true) }, false, 10 * time.Second, "may come back"},
		{"stopped in good order, and away for long", func(f *TakeoverFacts) { f.vacate(true); f.Since = 11 * time.Second }, true, 0, "no Primary"},
		{"stopped in good order, and back", func(f *TakeoverFacts) { f.vacate(true); f.hold("a", Suspicion{}) }, false, 10 * time.Second, "may come back"},
		{"the same for the preferred one", func(f *TakeoverFacts) { f.vacate(true); f.record().Preferred = "b" }, false, 10 * time.Second, "may come back"},
		{"it is the one that is back", func(f *TakeoverFacts) { f.vacate(true); f.Node = "a" }, true, 0, ""},
		{"the role was given up because the data are here", func(f *TakeoverFacts) { f.vacate(false); f.record().InSync = []string{"b"} }, true, 0, ""},
		{"deleted", func(f *TakeoverFacts) { f.State.Resources = map[string]*Resource{} }, false, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := takeoverFacts()
			c.change(f)
			got := DecideTakeover(f)
			if got.Promote != c.want || got.Wait != c.wait || !strings.Contains(got.Reason, c.reason) || c.reason == "" && !c.want && got.Reason != "" {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestPlaceLeader(t *testing.T) {
	f := takeoverFacts()
	voters := []string{"a", "b", "c", "w"}
	for name, want := range map[string]string{"a": "w", "b": ""} {
		if got := PlaceLeader(name, f.State, f.Liveness, voters); got != want {
			t.Errorf("from %s to %q, want %q", name, got, want)
		}
	}
	f.hold("w", Suspicion{Suspected: true})
	if got := PlaceLeader("a", f.State, f.Liveness, voters); got != "b" {
		t.Errorf("to %q", got)
	}
}

func TestHearing(t *testing.T) {
	begun := time.Now()
	at := func(ms int) time.Time { return begun.Add(time.Duration(ms) * time.Millisecond) }
	const suspect = 200 * time.Millisecond
	hears := func(h *hearing, name string, incarnation uint64, ms int, suspects ...string) {
		h.beat(beat{Node: name, Incarnation: incarnation, Suspects: suspects}, at(ms))
	}
	held := func(h *hearing, ms int) map[string]Suspicion {
		return h.suspicions([]string{"a", "b", "c"}, []string{"a", "b", "c"}, at(ms))
	}
	for _, c := range []struct {
		name string
		play func(h *hearing)
		ms   int
		want Suspicion // of b, by a
	}{
		{"nobody is suspected at first", func(*hearing) {}, 1100, Suspicion{}},
		{"never heard", func(*hearing) {}, 1300, Suspicion{Suspected: true, Votes: 1}},
		{"heard", func(h *hearing) { hears(h, "b", 1, 1900) }, 2000, Suspicion{}},
		{"silent", func(h *hearing) { hears(h, "b", 1, 1700) }, 2000, Suspicion{Suspected: true, Votes: 1}},
		{"by two", func(h *hearing) { hears(h, "b", 1, 1700); hears(h, "c", 1, 1950, "b") }, 2000, Suspicion{Suspected: true, Votes: 2}},
		{"by another alone", func(h *hearing) { hears(h, "b", 1, 1950); hears(h, "c", 1, 1950, "b") }, 2000, Suspicion{Votes: 1}},
		{"the word of one that is silent itself", func(h *hearing) { hears(h, "b", 1, 1950); hears(h, "c", 1, 1700, "b") }, 2000, Suspicion{}},
		{"refused", func(h *hearing) { hears(h, "b", 1, 1990); h.refuse("b", at(1995)) }, 2000, Suspicion{Suspected: true, Votes: 1}},
		{"refused, and back", func(h *hearing) { h.refuse("b", at(1500)); hears(h, "b", 1, 1990) }, 2000, Suspicion{}},
		{"refused at the start", func(h *hearing) { h.refuse("b", at(500)) }, 900, Suspicion{}},
		{"certified", func(h *hearing) { hears(h, "b", 1, 1990); h.exit("b", 1) }, 2000, Suspicion{Suspected: true, Votes: 1, Exited: 1}},
		{"certified, and a late beat", func(h *hearing) { h.exit("b", 1); hears(h, "b", 1, 1990) }, 2000, Suspicion{Suspected: true, Votes: 1, Exited: 1}},
		{"certified, and a new one", func(h *hearing) { h.exit("b", 1); hears(h, "b", 2, 1990) }, 2000, Suspicion{Exited: 1}},
		{"certified, and joined again", func(h *hearing) {
			hears(h, "b", 7, 1500)
			h.keep(map[string]NodeRecord{"b": {Incarnation: 7}})
			h.exit("b", 7)
			h.keep(map[string]NodeRecord{"b": {Incarnation: 1}})
			hears(h, "b", 1, 1990)
		}, 2000, Suspicion{}},
		{"certified, and registered anew", func(h *hearing) {
			h.exit("b", 7)
			h.keep(map[string]NodeRecord{"b": {Incarnation: 7}})
			h.keep(map[string]NodeRecord{"b": {Incarnation: 8}})
		}, 900, Suspicion{Suspected: true, Votes: 1, Exited: 7}},
		{"this process slept", func(h *hearing) {
			hears(h, "b", 1, 1950)
			h.look(at(1960), 40*time.Millisecond)
			h.look(at(9000), 40*time.Millisecond)
		}, 9050, Suspicion{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHearing("a", suspect, begun)
			c.play(h)
			if got := held(h, c.ms)["b"]; got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
