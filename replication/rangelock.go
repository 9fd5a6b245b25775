package replication

import (
	"cmp"
	"slices"
)

// rangeEntry is one interval in a rangeLock. It is embedded in what it locks for, so that locking allocates nothing.
// off and n are the caller's and stay unchanged from lock to unlock; the rest is the lock's.
type rangeEntry struct {
	off, n uint64   // bytes; an empty range conflicts with nothing
	owner  *request // for the caller; the lock does not look at it

	left, right *rangeEntry
	subtreeEnd  uint64 // the largest end in this subtree
	arrival     uint64 // position in the order of lock calls, from 1; 0: not in a lock
	priority    uint64 // heap order of the treap, a hash of arrival
	blockers    int    // overlapping entries that arrived earlier and are still in the lock
}

// end is the offset behind the last byte of the range.
func (e *rangeEntry) end() uint64 { return e.off + e.n }

// overlaps reports whether both ranges have a byte in common.
func (e *rangeEntry) overlaps(other *rangeEntry) bool {
	return e.n > 0 && other.n > 0 && e.off < other.end() && other.off < e.end()
}

// before is the order of the tree: by offset, then by arrival.
func (e *rangeEntry) before(other *rangeEntry) bool {
	return e.off < other.off || e.off == other.off && e.arrival < other.arrival
}

// update recomputes subtreeEnd from the children.
func (e *rangeEntry) update() {
	e.subtreeEnd = e.end()
	if e.left != nil {
		e.subtreeEnd = max(e.subtreeEnd, e.left.subtreeEnd)
	}
	if e.right != nil {
		e.subtreeEnd = max(e.subtreeEnd, e.right.subtreeEnd)
	}
}

// rangeLock orders requests on overlapping ranges: an entry holds its range once no overlapping entry that arrived
// before it is left. So a queued entry blocks later overlapping ones, nobody starves, and overlapping requests take
// effect in the order of their arrival. The zero value is ready to use. It has no mutex of its own.
//
// Holders and waiters are in one treap, ordered by offset and arrival, in which each subtree knows its largest end.
// Waiting needs no queue, only a count per entry: lock counts the overlapping entries, unlock counts the later ones
// down. Both take O(log n + overlaps).
type rangeLock struct {
	root     *rangeEntry
	arrivals uint64
	entries  int
	ready    []*rangeEntry // reused by unlock
}

// lock enters e and reports whether it holds its range already. If not, a later unlock returns it.
func (l *rangeLock) lock(e *rangeEntry) bool {
	if e.arrival != 0 {
		panic("replication: range entry is in a lock already")
	}
	l.arrivals++
	l.entries++
	e.arrival, e.priority = l.arrivals, mixBits(l.arrivals)
	e.left, e.right, e.subtreeEnd = nil, nil, e.end()
	e.blockers = countOverlaps(l.root, e)
	l.root = insertEntry(l.root, e)
	return e.blockers == 0
}

// unlock removes e, which holds its range, and returns the entries that hold theirs from now on, in the order of their
// arrival. The result is valid until the next call.
func (l *rangeLock) unlock(e *rangeEntry) []*rangeEntry {
	if e.arrival == 0 || e.blockers != 0 {
		panic("replication: range entry does not hold its range")
	}
	l.root = removeEntry(l.root, e)
	l.entries--
	l.ready = appendReleased(l.ready[:0], l.root, e)
	if len(l.ready) > 1 {
		slices.SortFunc(l.ready, func(a, b *rangeEntry) int { return cmp.Compare(a.arrival, b.arrival) })
	}
	e.left, e.right, e.arrival = nil, nil, 0
	return l.ready
}

// empty reports whether nothing holds or waits.
func (l *rangeLock) empty() bool { return l.entries == 0 }

// mixBits is the finalizer of splitmix64: a bijection whose results look random, which is all that a treap needs.
func mixBits(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// countOverlaps counts the entries below t that overlap e.
func countOverlaps(t, e *rangeEntry) int {
	count := 0
	for t != nil && t.subtreeEnd > e.off {
		count += countOverlaps(t.left, e)
		if t.off >= e.end() {
			break
		}
		if t.overlaps(e) {
			count++
		}
		t = t.right
	}
	return count
}

// appendReleased takes e, which has left the tree, off the blockers of the entries below t and appends those that e
// was the last blocker of. All of them arrived after e: it held its range, so nothing earlier overlapped it.
func appendReleased(ready []*rangeEntry, t, e *rangeEntry) []*rangeEntry {
	for t != nil && t.subtreeEnd > e.off {
		ready = appendReleased(ready, t.left, e)
		if t.off >= e.end() {
			break
		}
		if t.overlaps(e) {
			if t.blockers--; t.blockers == 0 {
				ready = append(ready, t)
			}
		}
		t = t.right
	}
	return ready
}

// insertEntry puts e into the treap t and returns the new root.
func insertEntry(t, e *rangeEntry) *rangeEntry {
	switch {
	case t == nil:
		return e
	case e.priority > t.priority:
		e.left, e.right = splitEntries(t, e)
		e.update()
		return e
	case e.before(t):
		t.left = insertEntry(t.left, e)
	default:
		t.right = insertEntry(t.right, e)
	}
	t.subtreeEnd = max(t.subtreeEnd, e.end())
	return t
}

// splitEntries divides the treap t into what is before e and what is after it.
func splitEntries(t, e *rangeEntry) (before, after *rangeEntry) {
	if t == nil {
		return nil, nil
	}
	if t.before(e) {
		t.right, after = splitEntries(t.right, e)
		t.update()
		return t, after
	}
	before, t.left = splitEntries(t.left, e)
	t.update()
	return before, t
}

// removeEntry takes e out of the treap t and returns the new root.
func removeEntry(t, e *rangeEntry) *rangeEntry {
	if t == e {
		return joinEntries(e.left, e.right)
	}
	if e.before(t) {
		t.left = removeEntry(t.left, e)
	} else {
		t.right = removeEntry(t.right, e)
	}
	t.update()
	return t
}

// joinEntries makes one treap of two, all of before being before all of after.
func joinEntries(before, after *rangeEntry) *rangeEntry {
	switch {
	case before == nil:
		return after
	case after == nil:
		return before
	case before.priority > after.priority:
		before.right = joinEntries(before.right, after)
		before.update()
		return before
	}
	after.left = joinEntries(before, after.left)
	after.update()
	return after
}
