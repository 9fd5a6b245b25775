package quorum

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The order of candidates in time, docs/TAKEOVER.md section 2.
const (
	takeoverTurn     = time.Second      // between two candidates
	takeoverComeback = 10 * time.Second // for a Primary that stopped in good order
)

// TakeoverFacts is what the decision about a promotion looks at.
type TakeoverFacts struct {
	Node        string
	Incarnation uint64
	State       *State
	Resource    string
	Liveness    Liveness
	// Unusable says why the disk here can't be the Primary's; "": it can.
	Unusable string
	// Since is for how long this node has known what it knows: this generation, and who goes first.
	Since time.Duration
}

// Takeover is what follows from the facts.
type Takeover struct {
	// Promote: now.
	Promote bool
	// Wait is after how long it is worth looking again although nothing has changed; 0: not before something changes.
	Wait time.Duration
	// Reason says to a person what is done, or waited for. "" if nobody is to be promoted.
	Reason string
	// Gone: the Primary's process has certainly ended.
	Gone bool
}

// DecideTakeover says whether this node has to propose that it becomes Primary. It is pure, and wrong decisions harm nothing: the
// record's guard has the last word.
func DecideTakeover(f *TakeoverFacts) Takeover {
	r := f.State.Resources[f.Resource]
	if r == nil || r.Promotion != PromotionAuto || r.Primary == f.Node && r.PrimaryIncarnation == f.Incarnation {
		return Takeover{}
	}
	gone, why := f.primaryGone(r)
	t := Takeover{Gone: gone}
	switch {
	case r.Primary != "" && !gone && why == "":
		return t // it lives
	case r.Primary != "" && !gone && r.Primary != f.Node && !f.majoritySuspects(r.Primary):
		t.Reason = why
	case r.Primary == "" && r.Hold:
		t.Reason = "held since `duet secondary`: duet primary " + r.Name
	case !r.IsInSync(f.Node):
		t.Reason = fmt.Sprintf("waiting for %s, which has every acknowledged write", strings.Join(r.InSync, " or "))
	case f.Unusable != "":
		t.Reason = "the disk of " + f.Node + " can't be used: " + f.Unusable
	default:
		return f.turn(r, t)
	}
	return t
}

// primaryGone says whether the Primary's process has certainly ended, and if not why it may have; "" if it lives.
func (f *TakeoverFacts) primaryGone(r *Resource) (gone bool, why string) {
	if r.Primary == "" {
		return false, ""
	}
	held := f.Liveness.Nodes[r.Primary]
	if f.State.Nodes[r.Primary].Incarnation > r.PrimaryIncarnation || held.Exited >= r.PrimaryIncarnation {
		return true, ""
	}
	if !held.Suspected {
		return false, ""
	}
	return false, fmt.Sprintf("%s is not heard here, but by others: %d of %d voters suspect it", r.Primary, held.Votes, f.Liveness.Voters)
}

func (f *TakeoverFacts) majoritySuspects(node string) bool {
	return f.Liveness.Nodes[node].Votes > f.Liveness.Voters/2
}

// turn decides when it is this node's turn among the candidates.
func (f *TakeoverFacts) turn(r *Resource, t Takeover) Takeover {
	last, clean := r.lastPrimary(), r.Primary == "" && r.Clean
	wait := time.Duration(0)
	for _, name := range r.candidates(last) {
		if name == f.Node {
			break
		}
		if f.alive(name) && f.fresh(r, name) {
			wait += takeoverTurn
			t.Reason = name + " goes first"
		}
	}
	if clean && r.IsInSync(last) {
		if last == f.Node {
			wait = 0
		} else {
			wait += takeoverComeback
			t.Reason = last + " stopped in good order and may come back"
		}
	}
	if wait > f.Since {
		t.Wait = wait - f.Since
		return t
	}
	t.Promote = true
	t.Reason = f.why(r, t.Gone)
	return t
}

// fresh reports whether a candidate is not the very Primary that is given up.
func (f *TakeoverFacts) fresh(r *Resource, name string) bool {
	return name != r.Primary || f.State.Nodes[name].Incarnation > r.PrimaryIncarnation
}

// why is the reason for history.
func (f *TakeoverFacts) why(r *Resource, gone bool) string {
	held := f.Liveness.Nodes[r.Primary]
	switch {
	case r.Primary == "":
		return "there is no Primary"
	case r.Primary == f.Node:
		return f.Node + " was Primary when it ended"
	case gone:
		return fmt.Sprintf("the process of %s that was Primary has ended", r.Primary)
	}
	return fmt.Sprintf("%s is suspected by %d of %d voters", r.Primary, held.Votes, f.Liveness.Voters)
}

func (f *TakeoverFacts) alive(name string) bool {
	return name == f.Node || !f.Liveness.Nodes[name].Suspected
}

// lastPrimary is who was Primary last, "" if history doesn't tell.
func (r *Resource) lastPrimary() string {
	if r.Primary != "" {
		return r.Primary
	}
	for _, c := range slices.Backward(r.History) {
		if c.Primary != "" {
			return c.Primary
		}
	}
	return ""
}

// candidates is the in-sync set in the order in which they begin: the Primary that was lost goes last.
func (r *Resource) candidates(last string) []string {
	rank := func(name string) int {
		switch name {
		case last:
			return 2
		case r.Preferred:
			return 0
		}
		return 1
	}
	members := slices.Clone(r.InSync)
	slices.SortFunc(members, func(a, b string) int { return cmp.Or(rank(a)-rank(b), strings.Compare(a, b)) })
	return members
}

// PlaceLeader says to whom a leader of Raft that is Primary hands leadership, so that its death costs no election; "": it
// stays. A witness comes first, then whoever is Primary of nothing.
func PlaceLeader(self string, state *State, live Liveness, voters []string) string {
	primaries := map[string]bool{}
	for _, r := range state.Resources {
		primaries[r.Primary] = true
	}
	if !primaries[self] {
		return ""
	}
	best := ""
	for _, name := range voters {
		if name == self || primaries[name] || live.Nodes[name].Suspected {
			continue
		}
		witness := state.Nodes[name].Kind == Witness
		if best == "" || witness && state.Nodes[best].Kind != Witness {
			best = name
		}
	}
	return best
}
