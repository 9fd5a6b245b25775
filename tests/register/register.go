package register

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// NoAnswer is the end of an access whose outcome the client never learned.
const NoAnswer = int64(1) << 60

// Access is a read or a write of a register, which happens at one moment between Call and End.
type Access struct {
	Write     bool
	Value     uint64
	Call, End int64 // the End of a write that nobody answered is NoAnswer: it happens at some moment, or never
	// Until, unless it is 0, is a bound of a write that nobody answered: it happens before anything that is called later, or
	// never. The values of a register with such writes must be unique.
	Until int64
}

// String describes an access in a report.
func (a Access) String() string {
	what := "read"
	if a.Write {
		what = "write"
	}
	if a.End == NoAnswer {
		return fmt.Sprintf("%s %d from %d, unanswered, before %d or never", what, a.Value, a.Call, a.Until)
	}
	return fmt.Sprintf("%s %d in [%d,%d]", what, a.Value, a.Call, a.End)
}

// MostStates bounds a search. Real histories need some hundred states per block: no more than a few accesses overlap.
const MostStates = 5_000_000

// statesOfReport bounds the search that only serves a report.
const statesOfReport = 50_000

// Impasse says how far a search came that found no order.
type Impasse struct {
	States         int    // MostStates: there may be an order all the same
	Ordered, Total int    // of what must happen, in the longest order
	Value          uint64 // of the register behind it
	Next           Access // what would have to come then, at the latest
}

// Linearize looks for an order of the accesses that explains every read, when the register holds one of the initial
// values at first. It returns nil if there is one.
//
// It tries one access after the other, and visits each pair of what has happened and what the register holds once.
// What makes it fast loses no order:
//   - A read of what the register holds happens as soon as it may.
//   - An unanswered write happens only immediately before a read of its value, and of those of the same value the one
//     that was called first.
//   - A value that is still to be read and that nobody will write again is not overwritten.
//   - Initial values that nobody reads are as good as each other.
func Linearize(accesses []Access, initial []uint64) *Impasse {
	s := newRegisterSearch(accesses, MostStates)
	if s.run(initial) {
		return nil
	}
	long := newRegisterSearch(accesses, statesOfReport)
	long.overwrite = true
	if !long.run(initial) { // for a report that comes as far as possible
		s.best = long.best
	}
	s.best.States = len(s.seen)
	return &s.best
}

// registerSearch is a search under way. Everything but best and seen is as it was when explore returns false.
type registerSearch struct {
	accesses  []Access         // by call
	optional  map[uint64][]int // unanswered writes by value
	done      []uint64         // a bit for each access that has happened
	left      int              // accesses that must still happen
	reads     map[uint64]int   // still to happen, by value
	writes    map[uint64]int   // that can still happen, by value
	seen      map[string]bool
	best      Impasse
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

func newRegisterSearch(accesses []Access, most int) *registerSearch {
	s := &registerSearch{most: most, accesses: slices.Clone(accesses), optional: map[uint64][]int{}, done: make([]uint64, (len(accesses)+63)/64),
		reads: map[uint64]int{}, writes: map[uint64]int{}, seen: map[string]bool{}}
	slices.SortStableFunc(s.accesses, func(a, b Access) int { return int(a.Call - b.Call) })
	for i, a := range s.accesses {
		switch {
		case !a.Write:
			s.reads[a.Value]++
		case a.End == NoAnswer:
			s.optional[a.Value] = append(s.optional[a.Value], i)
			s.writes[a.Value]++
		default:
			s.writes[a.Value]++
		}
		if s.required(i) {
			s.left++
		}
	}
	s.best = Impasse{Ordered: -1, Total: s.left}
	return s
}

func (s *registerSearch) required(i int) bool {
	return !s.accesses[i].Write || s.accesses[i].End != NoAnswer
}

func (s *registerSearch) isDone(i int) bool { return s.done[i/64]&(1<<(i%64)) != 0 }

// mark has an access happen, or takes that back.
func (s *registerSearch) mark(i, by int) {
	s.done[i/64] ^= 1 << (i % 64)
	counts := s.reads
	if s.accesses[i].Write {
		counts = s.writes
	}
	counts[s.accesses[i].Value] -= by
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
		for _, i := range s.choices(value, first, s.accesses[latest].End) {
			s.mark(i, 1)
			if s.explore(s.accesses[i].Value, first) {
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
		for i := first; i < len(s.accesses) && s.accesses[i].Call <= s.accesses[latest].End; i++ {
			if a := s.accesses[i]; !a.Write && a.Value == value && !s.isDone(i) {
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
		if latest >= 0 && s.accesses[i].Call > s.accesses[latest].End {
			break
		}
		if s.isDone(i) || !s.required(i) {
			continue
		}
		first = min(first, i)
		if latest < 0 || s.accesses[i].End < s.accesses[latest].End {
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
	if ordered := s.best.Total - s.left; ordered > s.best.Ordered {
		s.best.Ordered, s.best.Value, s.best.Next = ordered, value, s.accesses[latest]
	}
	return true
}

// choices are the writes that may happen next and may lead on.
func (s *registerSearch) choices(value uint64, first int, horizon int64) []int {
	if !s.overwrite && s.reads[value] > 0 && s.writes[value] == 0 {
		return nil
	}
	var found []int
	for i := first; i < len(s.accesses) && s.accesses[i].Call <= horizon; i++ {
		a := s.accesses[i]
		switch {
		case s.isDone(i) || !s.required(i):
		case a.Write:
			found = append(found, i)
		default:
			w := s.unanswered(a.Value)
			if w >= 0 && s.accesses[w].Call <= horizon && !slices.Contains(found, w) && !s.tooLate(s.accesses[w].Until) {
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

// tooLate reports whether something has happened that was called after the bound of a write.
func (s *registerSearch) tooLate(until int64) bool {
	if until == 0 {
		return false
	}
	after, _ := slices.BinarySearchFunc(s.accesses, until, func(a Access, t int64) int {
		if a.Call <= t {
			return -1
		}
		return 1
	})
	for i := after; i < len(s.accesses); i++ {
		if s.isDone(i) {
			return true
		}
	}
	return false
}
