package supervisor

import (
	"slices"
	"testing"
	"time"
)

var began = time.Unix(1000, 0)

// at is so many seconds after the beginning.
func at(seconds float64) time.Time {
	return began.Add(time.Duration(seconds * float64(time.Second)))
}

// run registers an incarnation that has not run before.
func (l *ledger) run(t *testing.T, incarnation uint64) {
	t.Helper()
	if known, err := l.register(incarnation, 100+int(incarnation)); known || err != nil {
		t.Fatalf("incarnation %d: %v, %v", incarnation, known, err)
	}
}

func TestLedgerCertifiesWhatItSaw(t *testing.T) {
	l := newLedger(began)
	l.setPeers([]string{"b", "c"})
	l.run(t, 7)
	if l.current() != 7 || l.owed("b") != nil {
		t.Errorf("runs %d, owes %v", l.current(), l.owed("b"))
	}
	if l.exited(6, at(1)) || l.exited(8, at(1)) {
		t.Error("certified what it did not see running")
	}
	if !l.exited(7, at(1)) || l.exited(7, at(2)) {
		t.Error("certified not at all, or twice")
	}
	if l.current() != 0 || !slices.Equal(l.owed("b"), []uint64{7}) || !slices.Equal(l.owed("c"), []uint64{7}) || l.owed("d") != nil {
		t.Errorf("runs %d, owes %v and %v", l.current(), l.owed("b"), l.owed("c"))
	}
	if took := l.taken("b", 7, at(1.5)); took != 500*time.Millisecond || l.owed("b") != nil || l.owed("c") == nil {
		t.Errorf("took %v; owes %v and %v", took, l.owed("b"), l.owed("c"))
	}
	l.taken("x", 7, at(2))
	l.taken("c", 9, at(2))
	l.setPeers([]string{"b", "d"}) // c is gone; d is new, and granted nothing to incarnation 7
	if l.owed("c") != nil || l.owed("d") != nil {
		t.Errorf("owes %v and %v", l.owed("c"), l.owed("d"))
	}
}

func TestLedgerOrderlyEnd(t *testing.T) {
	l := newLedger(began)
	l.setPeers([]string{"b"})
	l.run(t, 1)
	l.orderly(1)
	l.orderly(2)
	if l.exited(1, at(1)) || l.owed("b") != nil {
		t.Error("an orderly end was certified")
	}
	l.run(t, 2)
	l.orderly(2)
	if known, err := l.register(2, 102); !known || err != nil { // it goes on after all
		t.Errorf("%v, %v", known, err)
	}
	if !l.exited(2, at(2)) {
		t.Error("not certified")
	}
	l.run(t, 3)
	l.drop(3, at(3))
	if l.exited(3, at(4)) {
		t.Error("certified what it could not watch")
	}
}

func TestLedgerRefuses(t *testing.T) {
	l := newLedger(began)
	l.run(t, 5)
	for name, c := range map[string]struct {
		incarnation uint64
		pid         int
	}{
		"another process with the same number": {5, 1},
		"an older one":                         {4, 104},
	} {
		if _, err := l.register(c.incarnation, c.pid); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if known, err := l.register(5, 105); !known || err != nil {
		t.Errorf("the same process again: %v, %v", known, err)
	}
	l.run(t, 6) // the former one is about to be gone
	if !l.exited(5, at(1)) || l.current() != 6 {
		t.Error("the end of the former process was missed")
	}
	l.exited(6, at(2))
	if _, err := l.register(6, 106); err == nil {
		t.Error("one whose exit was seen was taken")
	}
}

func TestLedgerEnds(t *testing.T) {
	type step func(l *ledger)
	run := func(l *ledger) { l.running[1] = &process{pid: 1} }
	exit := func(seconds float64) step { return func(l *ledger) { l.exited(1, at(seconds)) } }
	orderly := func(l *ledger) { l.orderly(1) }
	term := func(seconds float64) step { return func(l *ledger) { l.terminate(at(seconds)) } }
	take := func(l *ledger) { l.taken("b", 1, at(100)) }
	linger, repeat, end := lingerTime.Seconds(), repeatTime.Seconds(), terminateTime.Seconds()
	tests := []struct {
		name  string
		steps []step
		lives float64 // the last moment at which it goes on; below 0: none
		ends  float64 // the first at which it does not; 0: never
	}{
		{"nobody came", nil, linger - 0.1, linger},
		{"one runs", []step{run}, 1e6, 0},
		{"one runs, and it is told to end", []step{run, term(1)}, 1e6, 0},
		{"an orderly end", []step{run, orderly, exit(100)}, 100 + linger - 0.1, 100 + linger},
		{"an exit that is taken", []step{run, exit(100), take}, 100 + linger - 0.1, 100 + linger},
		{"an exit that nobody takes", []step{run, exit(100)}, 100 + repeat - 0.1, 100 + repeat},
		{"told to end, nothing to do", []step{term(1)}, -1, 1},
		{"told to end, then an exit", []step{run, term(50), exit(100)}, 100 + end - 0.1, 100 + end},
		{"an exit, then told to end", []step{run, exit(100), term(110)}, 110 + end - 0.1, 110 + end},
		{"told to end, and it is taken", []step{run, term(50), exit(100), take}, -1, 100},
		{"told to end, and in good order", []step{run, term(50), orderly, exit(100)}, -1, 100},
	}
	for _, tt := range tests {
		play := func() *ledger {
			l := newLedger(began)
			l.setPeers([]string{"b"})
			for _, s := range tt.steps {
				s(l)
			}
			return l
		}
		if tt.lives >= 0 && play().over(at(tt.lives)) {
			t.Errorf("%s: ends too early", tt.name)
		}
		if tt.ends > 0 && !play().over(at(tt.ends)) {
			t.Errorf("%s: does not end", tt.name)
		}
	}
}

func TestLedgerIsBounded(t *testing.T) {
	l := newLedger(began)
	l.setPeers([]string{"b"})
	for i := range uint64(3 * maxEnded) {
		l.run(t, i+1)
		l.exited(i+1, at(float64(i)))
	}
	if owed := l.owed("b"); len(owed) != maxEnded || owed[maxEnded-1] != 3*maxEnded {
		t.Errorf("owes %v", owed)
	}
}
