package crash

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Budget says how many states are tried at each point.
type Budget struct {
	Exhaustive int    // up to so many pending units: all subsets
	Random     int    // above that: so many random ones, beside the systematic
	Seed       uint64 // of the random ones
	From       int    // operations behind which the first crash comes
}

// DefaultBudget is for checks that take some microseconds to a millisecond.
func DefaultBudget() Budget { return Budget{Exhaustive: 8, Random: 64, Seed: 1} }

// State is one thing that a crash may have left.
type State struct {
	Image *Image
	After int      // operations that were begun
	Marks []string // what had happened
	Lost  int      // units that were not kept
}

// Marked tells whether something had happened.
func (s *State) Marked(mark string) bool {
	for _, m := range s.Marks {
		if m == mark {
			return true
		}
	}
	return false
}

// Report counts what was explored.
type Report struct {
	Points     int // at which the machine could stop
	States     int // that were checked, none twice
	Exhaustive int // points at which all subsets were tried
}

// String is for the log of a test.
func (r Report) String() string {
	return fmt.Sprintf("%d states at %d points, %d of them exhaustively", r.States, r.Points, r.Exhaustive)
}

// Add counts another exploration in.
func (r *Report) Add(other Report) {
	r.Points += other.Points
	r.States += other.States
	r.Exhaustive += other.Exhaustive
}

// Explore calls check with what a crash at each point of the recorded run may leave. It ends with the first error.
func (r *Recorder) Explore(b Budget, check func(*State) error) (Report, error) {
	return Explore(r.Initial(), r.Ops(), b, check)
}

// Initial returns what was durable before the run.
func (r *Recorder) Initial() *Image {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.initial.Clone()
}

// Explore is like Recorder.Explore, for operations that were changed.
func Explore(initial *Image, ops []Op, b Budget, check func(*State) error) (Report, error) {
	e := &explorer{budget: b, check: check, rng: rand.New(rand.NewPCG(b.Seed, 1)), durable: initial.Clone(),
		live: initial.Clone(), seen: map[string]bool{}}
	for after := 0; ; after++ {
		if after >= b.From {
			if err := e.point(after); err != nil {
				return e.report, fmt.Errorf("%w\n%s", err, history(ops, after))
			}
		}
		if after == len(ops) {
			return e.report, nil
		}
		e.step(ops[after])
	}
}

// history is the end of what was done before a crash.
func history(ops []Op, after int) string {
	var text strings.Builder
	for i := max(0, after-12); i < after; i++ {
		fmt.Fprintf(&text, "  %d: %s\n", i, ops[i])
	}
	return text.String()
}

// explorer walks through the operations.
type explorer struct {
	budget  Budget
	check   func(*State) error
	rng     *rand.Rand
	durable *Image
	live    *Image
	pending []unit
	units   int
	marks   []string
	seen    map[string]bool // subsets that were tried since the last mark or sync
	report  Report
}

func (e *explorer) step(op Op) {
	switch op.Kind {
	case Mark:
		e.marks = append(e.marks[:len(e.marks):len(e.marks)], op.Name)
		clear(e.seen)
	case Sync:
		e.sync(op.Object)
	default:
		for _, u := range op.units(e.live) {
			u.id = e.units
			e.units++
			u.apply(e.live)
			if !e.idle(&u) {
				e.pending = append(e.pending, u)
			}
		}
	}
}

// sync makes the pending units of one file or directory durable.
func (e *explorer) sync(object int) {
	var rest []unit
	for _, u := range e.pending {
		if u.op.Object == object {
			u.apply(e.durable)
		} else {
			rest = append(rest, u)
		}
	}
	if len(rest) < len(e.pending) {
		e.pending = rest
		clear(e.seen)
	}
}

// idle tells that a unit writes what is there already, so that it makes no difference whether it is lost.
func (e *explorer) idle(u *unit) bool {
	if u.op.Kind != Write || u.at == growth {
		return false
	}
	at := u.op.Offset + u.at
	for i := range e.pending {
		p := &e.pending[i]
		if p.op.Object == u.op.Object && (p.op.Kind == Resize || p.op.Kind == Write && (p.at == growth || overlaps(p, u))) {
			return false
		}
	}
	old := make([]byte, len(u.sector))
	if n, err := e.durable.Content(u.op.Object).ReadAt(old, at); err != nil && n < len(old) {
		return false
	}
	return string(old) == string(u.sector)
}

func overlaps(a, b *unit) bool {
	from, to := a.op.Offset+a.at, b.op.Offset+b.at
	return from < to+int64(len(b.sector)) && to < from+int64(len(a.sector))
}

// point tries what may be left if the machine stops now.
func (e *explorer) point(after int) error {
	e.report.Points++
	n := len(e.pending)
	kept := make([]bool, n)
	try := func() error { return e.try(after, kept) }
	if n <= e.budget.Exhaustive {
		e.report.Exhaustive++
		for subset := range 1 << n {
			for i := range kept {
				kept[i] = subset>>i&1 == 1
			}
			if err := try(); err != nil {
				return err
			}
		}
		return nil
	}
	for _, all := range []bool{false, true} {
		for odd := range n + 1 { // odd == n: none differs
			for i := range kept {
				kept[i] = all != (i == odd)
			}
			if err := try(); err != nil {
				return err
			}
		}
	}
	for range e.budget.Random {
		bias := 1 + e.rng.IntN(7)
		for i := range kept {
			kept[i] = e.rng.IntN(8) < bias
		}
		if err := try(); err != nil {
			return err
		}
	}
	return nil
}

func (e *explorer) try(after int, kept []bool) error {
	var key strings.Builder
	lost := 0
	for i := range e.pending {
		if kept[i] {
			fmt.Fprintf(&key, "%x,", e.pending[i].id)
		} else {
			lost++
		}
	}
	if e.seen[key.String()] {
		return nil
	}
	e.seen[key.String()] = true
	e.report.States++
	image := e.durable.Clone()
	for i := range e.pending {
		if kept[i] {
			e.pending[i].apply(image)
		}
	}
	err := e.check(&State{Image: image, After: after, Marks: e.marks, Lost: lost})
	if err == nil {
		return nil
	}
	var text strings.Builder
	for i := range e.pending {
		fmt.Fprintf(&text, "\n  kept %v: %s, part %d", kept[i], e.pending[i].op, e.pending[i].at)
	}
	return fmt.Errorf("crash after %d operations: %w%s", after, err, text.String())
}
