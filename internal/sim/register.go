package sim

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// access is a read or a write of a register, which happens at one moment between call and end.
type access struct {
	write     bool
	value     uint64
	call, end int64 // the end of a write that nobody answered is noAnswer: it happens at some moment, or never
}

// String describes an access in a report.
func (a access) String() string {
	what := "read"
	if a.write {
		what = "write"
	}
	return fmt.Sprintf("%s %d in [%d,%d]", what, a.value, a.call, a.end)
}

// mostStates bounds a search. Real histories need some hundred states per block: no more than a few accesses overlap.
const mostStates = 5_000_000

// statesOfReport bounds the search that only serves a report.
const statesOfReport = 50_000

// impasse says how far a search came that found no order.
type impasse struct {
	states         int
	ordered, total int    // of what must happen, in the longest order
	value          uint64 // of the register behind it
	next           access // what would have to come then, at the latest
}

// linearize looks for an order of the accesses that explains every read, when the register holds one of the initial
// values at first. It returns nil if there is one.
//
// It tries one access after the other, and visits each pair of what has happened and what the register holds once.
// What makes it fast loses no order:
//   - A read of what the register holds happens as soon as it may.
//   - An unanswered write happens only immediately before a read of its value, and of those of the same value the one
//     that was called first.
//   - A value that is still to be read and that nobody will write again is not overwritten.
//   - Initial values that nobody reads are as good as each other.
func linearize(accesses []access, initial []uint64) *impasse {
	s := newRegisterSearch(accesses, mostStates)
	if s.run(initial) {
		return nil
	}
	long := newRegisterSearch(accesses, statesOfReport)
	long.overwrite = true
	if !long.run(initial) { // for a report that comes as far as possible
		s.best = long.best
	}
	s.best.states = len(s.seen)
	return &s.best
}

// registerSearch is a search under way. Everything but best and seen is as it was when explore returns false.
type registerSearch struct {
	accesses  []access         // by call
	optional  map[uint64][]int // unanswered writes by value
	done      []uint64         // a bit for each access that has happened
	left      int              // accesses that must still happen
	reads     map[uint64]int   // still to happen, by value
	writes    map[uint64]int   // that can still happen, by value
	seen      map[string]bool
	best      impasse
	most      int  // states
	exhausted bool // there were more
	overwrite bool // even what is still to be read
}

// run reports whether there is an order from any of the initial values.
func (s *registerSearch) run(initial []uint64) bool {
	unread := false
	for _, value := range initial {
		if s.reads[value] == 0 {
			if unread {
				continue
			}
			unread = true
		}
		if s.explore(value, 0) {
			return true
		}
		if s.exhausted {
			break
		}
	}
	return false
}

func newRegisterSearch(accesses []access, most int) *registerSearch {
	s := &registerSearch{most: most, accesses: slices.Clone(accesses), optional: map[uint64][]int{}, done: make([]uint64, (len(accesses)+63)/64),
		reads: map[uint64]int{}, writes: map[uint64]int{}, seen: map[string]bool{}}
	slices.SortStableFunc(s.accesses, func(a, b access) int { return int(a.call - b.call) })
	for i, a := range s.accesses {
		switch {
		case !a.write:
			s.reads[a.value]++
		case a.end == noAnswer:
			s.optional[a.value] = append(s.optional[a.value], i)
			s.writes[a.value]++
		default:
			s.writes[a.value]++
		}
		if s.required(i) {
			s.left++
		}
	}
	s.best = impasse{ordered: -1, total: s.left}
	return s
}

func (s *registerSearch) required(i int) bool {
	return !s.accesses[i].write || s.accesses[i].end != noAnswer
}

func (s *registerSearch) isDone(i int) bool { return s.done[i/64]&(1<<(i%64)) != 0 }

// mark has an access happen, or takes that back.
func (s *registerSearch) mark(i, by int) {
	s.done[i/64] ^= 1 << (i % 64)
	counts := s.reads
	if s.accesses[i].write {
		counts = s.writes
	}
	counts[s.accesses[i].value] -= by
	if s.required(i) {
		s.left -= by
	}
}

// explore reports whether what is left can happen when the register holds value. Everything required before first has happened.
func (s *registerSearch) explore(value uint64, first int) bool {
	taken, first, latest := s.takeReads(value, first)
	if s.left == 0 || s.exhausted {
		return s.left == 0
	}
	if s.visit(value, latest) {
		for _, i := range s.choices(value, first, s.accesses[latest].end) {
			s.mark(i, 1)
			if s.explore(s.accesses[i].value, first) {
				return true
			}
			s.mark(i, -1)
		}
	}
	for _, i := range taken {
		s.mark(i, -1)
	}
	return false
}

// takeReads has all reads of the value happen that may. It returns them, the first access that is required and left, and the one
// of these that ends first: what is called after that end can't happen yet.
func (s *registerSearch) takeReads(value uint64, from int) (taken []int, first, latest int) {
	for {
		first, latest = s.horizon(from)
		before := len(taken)
		if latest < 0 {
			return taken, first, latest
		}
		for i := first; i < len(s.accesses) && s.accesses[i].call <= s.accesses[latest].end; i++ {
			if a := s.accesses[i]; !a.write && a.value == value && !s.isDone(i) {
				s.mark(i, 1)
				taken = append(taken, i)
			}
		}
		if len(taken) == before {
			return taken, first, latest
		}
		from = first
	}
}

// horizon finds the first access that is required and left, and which of these ends first, -1 if none is left.
func (s *registerSearch) horizon(from int) (first, latest int) {
	first, latest = len(s.accesses), -1
	for i := from; i < len(s.accesses); i++ {
		if latest >= 0 && s.accesses[i].call > s.accesses[latest].end {
			break
		}
		if s.isDone(i) || !s.required(i) {
			continue
		}
		first = min(first, i)
		if latest < 0 || s.accesses[i].end < s.accesses[latest].end {
			latest = i
		}
	}
	return first, latest
}

// visit notes the state, and reports whether it is a new one.
func (s *registerSearch) visit(value uint64, latest int) bool {
	key := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+8*len(s.done)), value)
	for _, word := range s.done {
		key = binary.LittleEndian.AppendUint64(key, word)
	}
	if s.seen[string(key)] {
		return false
	}
	s.seen[string(key)] = true
	s.exhausted = len(s.seen) >= s.most
	if ordered := s.best.total - s.left; ordered > s.best.ordered {
		s.best.ordered, s.best.value, s.best.next = ordered, value, s.accesses[latest]
	}
	return true
}

// choices are the writes that may happen next and may lead on.
func (s *registerSearch) choices(value uint64, first int, horizon int64) []int {
	if !s.overwrite && s.reads[value] > 0 && s.writes[value] == 0 {
		return nil
	}
	var found []int
	for i := first; i < len(s.accesses) && s.accesses[i].call <= horizon; i++ {
		a := s.accesses[i]
		switch {
		case s.isDone(i) || !s.required(i):
		case a.write:
			found = append(found, i)
		default:
			if w := s.unanswered(a.value); w >= 0 && s.accesses[w].call <= horizon && !slices.Contains(found, w) {
				found = append(found, w)
			}
		}
	}
	return found
}

// unanswered is the first unanswered write of a value that has not happened, -1 without one.
func (s *registerSearch) unanswered(value uint64) int {
	for _, i := range s.optional[value] {
		if !s.isDone(i) {
			return i
		}
	}
	return -1
}
