package register

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// step is an access as porcupine's model sees it.
type step struct {
	write   bool
	value   uint64
	perhaps bool // the write may not happen
}

// register is the same register for porcupine.
func register(initial []uint64) porcupine.Model {
	model := porcupine.NondeterministicModel{
		Init: func() []any {
			var states []any
			for _, v := range initial {
				states = append(states, v)
			}
			return states
		},
		Step: func(state, input, _ any) []any {
			s := input.(step)
			switch {
			case s.perhaps:
				return []any{s.value, state}
			case s.write:
				return []any{s.value}
			case s.value == state.(uint64):
				return []any{state}
			}
			return nil
		},
		Equal: func(a, b any) bool { return a == b },
	}
	return model.ToModel()
}

// oracle is what porcupine says.
func oracle(t *testing.T, accesses []Access, initial []uint64) bool {
	t.Helper()
	var operations []porcupine.Operation
	for i, a := range accesses {
		end := a.End
		if end == NoAnswer {
			end = math.MaxInt64 // an order may have it behind everything else, where it means nothing
			if a.Until != 0 {
				end = a.Until
			}
		}
		operations = append(operations, porcupine.Operation{ClientId: i, Input: step{write: a.Write, value: a.Value, perhaps: a.Until != 0}, Call: a.Call, Return: end})
	}
	verdict := porcupine.CheckOperationsTimeout(register(initial), operations, time.Minute)
	if verdict == porcupine.Unknown {
		t.Fatalf("the oracle does not know: %v, initially %v", accesses, initial)
	}
	return verdict == porcupine.Ok
}

// randomAccesses are those of a few clients of a register that works, or nearly: reads return what was there at some
// moment of theirs, and then some are changed at random. Some writes are unanswered, some of those have no effect.
func randomAccesses(random *rand.Rand, clients, length, soundness int, unique bool) (accesses []Access, initial []uint64) {
	initial = []uint64{0, 101, 102, 103}[:1+random.IntN(4)]
	current := initial[random.IntN(len(initial))]
	type pending struct {
		Access
		happened bool
	}
	busy := make([]*pending, clients)
	var late []*pending // unanswered, and may still happen
	happen := func(p *pending) {
		if p.happened = true; p.Write {
			current = p.Value
		} else {
			p.Value = current
		}
	}
	for now, written := int64(1), uint64(0); len(accesses) < length && now < 40*int64(length); now++ {
		if len(late) > 0 && random.IntN(6) == 0 {
			happen(late[random.IntN(len(late))])
			late = slices.DeleteFunc(late, func(p *pending) bool { return p.happened })
		}
		c := random.IntN(clients)
		p := busy[c]
		switch {
		case p == nil:
			p = &pending{Access: Access{Write: random.IntN(2) == 0, Call: now, End: NoAnswer}}
			if p.Write && (unique || random.IntN(4) > 0) {
				written++
				p.Value = written
			}
			if busy[c] = p; !unique && random.IntN(8) == 0 && written > 0 {
				p.Value = 1 // not unique either
			}
		case !p.happened && (random.IntN(3) > 0 || !p.Write):
			happen(p)
		case p.happened && random.IntN(5) > 0:
			p.End = now
			fallthrough
		default:
			if p.Write || p.happened && p.End != NoAnswer {
				accesses = append(accesses, p.Access)
			}
			if !p.happened {
				late = append(late, p)
			}
			busy[c] = nil
		}
	}
	for i := range accesses { // and now and then nonsense
		if a := &accesses[i]; !a.Write && random.IntN(soundness) == 0 {
			a.Value = uint64(random.IntN(4))
		}
	}
	return accesses, initial
}

// TestRegisterAgainstPorcupine compares verdicts on random histories, legal and illegal ones.
func TestRegisterAgainstPorcupine(t *testing.T) {
	legal, illegal := 0, 0
	for seed := range uint64(30_000) {
		random := rand.New(rand.NewPCG(seed, 0))
		accesses, initial := randomAccesses(random, 1+random.IntN(4), 2+random.IntN(12), 8, false)
		stuck, want := Linearize(accesses, initial), oracle(t, accesses, initial)
		if (stuck == nil) != want {
			t.Fatalf("seed %d: legal is %v, and porcupine says %v\n%v\ninitially %v", seed, stuck == nil, want, accesses, initial)
		}
		if want {
			legal++
		} else {
			illegal++
		}
	}
	t.Logf("%d legal, %d illegal", legal, illegal)
	if legal < 5000 || illegal < 5000 {
		t.Error("the histories are one-sided")
	}
}

// TestRegisterIsFast: writes that nobody answered and somebody read, by the dozen, are what a search through all orders
// does not survive.
func TestRegisterIsFast(t *testing.T) {
	most, legal := 0, 0
	const histories = 200
	for seed := range uint64(histories) {
		accesses, initial := randomAccesses(rand.New(rand.NewPCG(seed, 1)), 6, 500, 1000, false)
		s := newRegisterSearch(accesses, MostStates)
		if s.run(initial) {
			legal++
		}
		most = max(most, len(s.seen))
	}
	t.Logf("%d legal of %d, at most %d states", legal, histories, most)
	if most > 500_000 || legal < histories/4 || legal > histories*9/10 {
		t.Error("too many states, or the histories are one-sided")
	}
}

// TestImpasse: what a report says of a lost write.
func TestImpasse(t *testing.T) {
	stuck := Linearize([]Access{{Write: true, Value: 1, Call: 1, End: 2}, {Value: 1, Call: 3, End: 4}, {Value: 0, Call: 5, End: 6}}, []uint64{0})
	if stuck == nil {
		t.Fatal("a lost write is legal")
	}
	stuck.States = 0
	if got, want := fmt.Sprint(*stuck), fmt.Sprint(Impasse{0, 2, 3, 1, Access{Value: 0, Call: 5, End: 6}}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestBoundsAgainstPorcupine does the same where unanswered writes have bounds, before their last moment or behind it.
func TestBoundsAgainstPorcupine(t *testing.T) {
	legal, illegal, strict := 0, 0, 0
	for seed := range uint64(30_000) {
		random := rand.New(rand.NewPCG(seed, 2))
		accesses, initial := randomAccesses(random, 1+random.IntN(4), 2+random.IntN(12), 30, true)
		lenient := Linearize(accesses, initial) == nil
		for i := range accesses {
			if a := &accesses[i]; a.End == NoAnswer {
				a.Until = a.Call + random.Int64N(30)
			}
		}
		stuck, want := Linearize(accesses, initial), oracle(t, accesses, initial)
		if (stuck == nil) != want {
			t.Fatalf("seed %d: legal is %v, and porcupine says %v\n%v\ninitially %v", seed, stuck == nil, want, accesses, initial)
		}
		switch {
		case want:
			legal++
		case lenient:
			strict++
		default:
			illegal++
		}
	}
	t.Logf("%d legal, %d illegal, %d for their bounds alone", legal, illegal, strict)
	if legal < 1000 || illegal < 1000 || strict < 100 {
		t.Error("the histories are one-sided")
	}
}
