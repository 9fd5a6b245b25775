package replication

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// naiveRangeLock is rangeLock as a list in order of arrival.
type naiveRangeLock struct{ entries []*rangeEntry }

func (n *naiveRangeLock) holds(at int) bool {
	for _, earlier := range n.entries[:at] {
		if earlier.off < n.entries[at].off+n.entries[at].n && n.entries[at].off < earlier.off+earlier.n &&
			earlier.n > 0 && n.entries[at].n > 0 {
			return false
		}
	}
	return true
}

func (n *naiveRangeLock) lock(e *rangeEntry) bool {
	n.entries = append(n.entries, e)
	return n.holds(len(n.entries) - 1)
}

func (n *naiveRangeLock) holders() []*rangeEntry {
	var all []*rangeEntry
	for i, e := range n.entries {
		if n.holds(i) {
			all = append(all, e)
		}
	}
	return all
}

func (n *naiveRangeLock) unlock(e *rangeEntry) (ready []*rangeEntry) {
	before := n.holders()
	at := slices.Index(n.entries, e)
	n.entries = slices.Delete(n.entries, at, at+1)
	for _, holder := range n.holders() {
		if !slices.Contains(before, holder) {
			ready = append(ready, holder)
		}
	}
	return ready
}

// checkTreap verifies order, heap and ends below t and returns the number of entries.
func checkTreap(t *rapid.T, e *rangeEntry) int {
	if e == nil {
		return 0
	}
	end := e.end()
	for _, child := range []*rangeEntry{e.left, e.right} {
		if child == nil {
			continue
		}
		end = max(end, child.subtreeEnd)
		if child.priority > e.priority {
			t.Fatalf("heap order broken at %d", e.off)
		}
	}
	if e.left != nil && !e.left.before(e) || e.right != nil && !e.before(e.right) {
		t.Fatalf("tree order broken at %d", e.off)
	}
	if end != e.subtreeEnd {
		t.Fatalf("subtree end of %d is %d, want %d", e.off, e.subtreeEnd, end)
	}
	return 1 + checkTreap(t, e.left) + checkTreap(t, e.right)
}

func TestRangeLockAgainstList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var lock rangeLock
		var naive naiveRangeLock
		t.Repeat(map[string]func(*rapid.T){
			"lock": func(t *rapid.T) {
				e := &rangeEntry{off: rapid.Uint64Range(0, 60).Draw(t, "off"), n: rapid.Uint64Range(0, 12).Draw(t, "n")}
				got, want := lock.lock(e), naive.lock(e)
				if got != want {
					t.Fatalf("lock(%d+%d) = %v, want %v", e.off, e.n, got, want)
				}
			},
			"unlock": func(t *rapid.T) {
				holders := naive.holders()
				if len(holders) == 0 {
					t.Skip("nothing is held")
				}
				e := rapid.SampledFrom(holders).Draw(t, "entry")
				got, want := lock.unlock(e), naive.unlock(e)
				if !slices.Equal(got, want) {
					t.Fatalf("unlock(%d+%d) made %d ready, want %d", e.off, e.n, len(got), len(want))
				}
			},
			"": func(t *rapid.T) {
				if got := checkTreap(t, lock.root); got != len(naive.entries) || lock.empty() != (got == 0) {
					t.Fatalf("tree has %d entries, want %d", got, len(naive.entries))
				}
			},
		})
	})
}

func TestRangeLockQueuedEntryBlocksLaterOnes(t *testing.T) {
	var lock rangeLock
	small := &rangeEntry{off: 0, n: 4096}
	big := &rangeEntry{off: 0, n: 1 << 20}
	later := &rangeEntry{off: 8192, n: 4096} // does not overlap the holder, only the waiter
	if !lock.lock(small) || lock.lock(big) || lock.lock(later) {
		t.Fatal("a later request overtook a waiting one")
	}
	if ready := lock.unlock(small); !slices.Equal(ready, []*rangeEntry{big}) {
		t.Fatalf("%d ready after the first unlock, want the big one", len(ready))
	}
	if ready := lock.unlock(big); !slices.Equal(ready, []*rangeEntry{later}) {
		t.Fatalf("%d ready after the second unlock, want the later one", len(ready))
	}
}

func TestRangeLockMisuse(t *testing.T) {
	for name, misuse := range map[string]func(l *rangeLock, e *rangeEntry){
		"locked twice":       func(l *rangeLock, e *rangeEntry) { l.lock(e); l.lock(e) },
		"unlocked when free": func(l *rangeLock, e *rangeEntry) { l.unlock(e) },
		"unlocked in queue": func(l *rangeLock, e *rangeEntry) {
			l.lock(&rangeEntry{off: e.off, n: e.n})
			l.lock(e)
			l.unlock(e)
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			misuse(new(rangeLock), &rangeEntry{off: 4096, n: 4096})
		})
	}
}

func BenchmarkRangeLock(b *testing.B) {
	for _, inFlight := range []int{1, 64, 1024, 4096} {
		b.Run(fmt.Sprint(inFlight), func(b *testing.B) {
			var lock rangeLock
			entries := make([]rangeEntry, inFlight)
			for i := range entries {
				entries[i] = rangeEntry{off: mixBits(uint64(i)) % (1 << 20) << 12, n: 4096}
			}
			held := 0
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				e := &entries[i%inFlight]
				if held == inFlight {
					if e.blockers == 0 {
						lock.unlock(e)
					} else {
						continue // two of the random ranges met; skip it
					}
				} else {
					held++
				}
				e.off = mixBits(uint64(i)) % (1 << 20) << 12
				lock.lock(e)
			}
		})
	}
}

// BenchmarkRangeLockHotBlock queues many requests for one block, as a hot page of a database does.
func BenchmarkRangeLockHotBlock(b *testing.B) {
	var lock rangeLock
	entries := make([]rangeEntry, 128)
	for i := range entries {
		entries[i].n = 4096
		lock.lock(&entries[i])
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e := &entries[i%len(entries)]
		if ready := lock.unlock(e); len(ready) != 1 {
			b.Fatalf("%d ready", len(ready))
		}
		lock.lock(e)
	}
}
