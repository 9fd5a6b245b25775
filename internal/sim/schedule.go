package sim

import (
	"math/rand/v2"
	"time"
)

// trouble is one step of a schedule: something goes wrong, or recovers. What it draws does not depend on the others, so
// that a history can be played without some of them.
type trouble struct {
	number int
	after  time.Duration // the one before
	must   mustHave
	random *rand.Rand
}

// draw is a random number below n.
func (s *trouble) draw(n int) int { return s.random.IntN(n) }

// millis is a random time below n milliseconds.
func (s *trouble) millis(n int) time.Duration { return time.Duration(s.draw(n)) * time.Millisecond }

// mustHave is what every history has at least once, whatever the others are.
type mustHave uint8

const (
	mustNothing mustHave = iota
	mustKill
	mustLosePower
	mustPartition
)

// fewestTroubles leaves room for what must be and something else.
const fewestTroubles = 6

// schedule draws what goes wrong in a history of about the given length.
func schedule(seed uint64, length time.Duration) []*trouble {
	random := rand.New(rand.NewPCG(seed, 2))
	var all []*trouble
	for at := time.Duration(0); at < length || len(all) < fewestTroubles; {
		s := &trouble{number: len(all), after: time.Duration(random.IntN(1500)) * time.Millisecond, random: rand.New(rand.NewPCG(seed, 1000+uint64(len(all))))}
		all = append(all, s)
		at += s.after
	}
	places := random.Perm(len(all))
	for i, must := range []mustHave{mustKill, mustLosePower, mustPartition} {
		all[places[i]].must = must
	}
	return all
}
