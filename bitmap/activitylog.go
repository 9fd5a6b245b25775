package bitmap

import "fmt"

// activityLog is the table of hot extents with its references, and the queue of those who wait for cold ones. It is pure: it says
// what has to be written, and is told when that is durable. It isn't safe for concurrent use: Store guards it.
//
// Every slot of the table is in one of three states:
//
//	idle     nobody holds its extent (or it has none); in the idle list, least recently used first
//	held     at least one reference; not in the list
//	pending  held, and the transaction that says so is not durable yet; only plan's caller may use it
//
// An extent is in the index from the moment a plan gives it a slot until a later plan takes the slot away.
type activityLog struct {
	slots []tableSlot
	index map[uint32]uint32 // extent to slot
	idle  int               // length of the idle list

	queue []waiter
	// stalled is true while the first of the queue waits for references to go. Then nobody takes a hot extent past the
	// queue, so that those held only become fewer and the wait ends.
	stalled bool
	// refusing is true when nobody may get anything any more: the store has failed or is being closed.
	refusing bool
}

// tableSlot is one slot of the table. The links are indices of slots; the last element of the table is the list's anchor.
type tableSlot struct {
	extent     uint32
	references uint32
	pending    bool
	prev, next uint32
}

// waiter is a queued Acquire.
type waiter struct {
	first, last uint32
	ready       func(error)
}

// batch is what one plan decided: who gets what, and what has to be durable before they may be told.
type batch struct {
	admitted []waiter
	updates  []slotUpdate
	evicted  []uint32 // extents whose bits have to be durable before the updates are written
}

func newActivityLog(extents uint32) *activityLog {
	l := &activityLog{
		slots: make([]tableSlot, extents+1),
		index: make(map[uint32]uint32, extents),
	}
	anchor := l.anchor()
	l.slots[anchor] = tableSlot{extent: noExtent, prev: anchor, next: anchor}
	for i := range extents {
		l.slots[i].extent = noExtent
		l.pushIdle(i)
	}
	return l
}

func (l *activityLog) anchor() uint32 { return uint32(len(l.slots) - 1) }

// pushIdle makes a slot the most recently used of the idle ones.
func (l *activityLog) pushIdle(i uint32) {
	anchor := l.anchor()
	last := l.slots[anchor].prev
	l.slots[i].prev, l.slots[i].next = last, anchor
	l.slots[last].next, l.slots[anchor].prev = i, i
	l.idle++
}

func (l *activityLog) removeIdle(i uint32) {
	s := &l.slots[i]
	l.slots[s.prev].next, l.slots[s.next].prev = s.next, s.prev
	l.idle--
}

// held returns how many extents somebody holds.
func (l *activityLog) held() int { return len(l.slots) - 1 - l.idle }

// tryAcquire takes a reference on each of the extents if all of them are hot.
func (l *activityLog) tryAcquire(first, last uint32) bool {
	if l.stalled || l.refusing || first > last {
		return false
	}
	if first == last {
		i, ok := l.index[first]
		if !ok || l.slots[i].pending {
			return false
		}
		l.reference(i)
		return true
	}
	for extent := first; extent <= last; extent++ {
		if i, ok := l.index[extent]; !ok || l.slots[i].pending {
			return false
		}
	}
	for extent := first; extent <= last; extent++ {
		l.reference(l.index[extent])
	}
	return true
}

func (l *activityLog) reference(i uint32) {
	if l.slots[i].references == 0 {
		l.removeIdle(i)
	}
	l.slots[i].references++
}

// retain takes another reference on extents that are held.
func (l *activityLog) retain(first, last uint32) {
	for extent := first; extent <= last; extent++ {
		l.slots[l.mustHold(extent)].references++
	}
}

// release gives back one reference on each of the extents. It returns true if the queue may go on because of it.
func (l *activityLog) release(first, last uint32) (wake bool) {
	for extent := first; extent <= last; extent++ {
		i := l.mustHold(extent)
		l.slots[i].references--
		if l.slots[i].references == 0 {
			l.pushIdle(i)
			wake = true
		}
	}
	return wake && l.stalled
}

// mustHold returns the slot of an extent that the caller says is held. If it is not, references are miscounted, and going on could
// let a write reach an extent that isn't in the log.
func (l *activityLog) mustHold(extent uint32) uint32 {
	i, ok := l.index[extent]
	if !ok || l.slots[i].references == 0 {
		panic(fmt.Sprintf("bitmap: extent %d is not held", extent))
	}
	return i
}

// enqueue adds a waiter at the end of the queue.
func (l *activityLog) enqueue(w waiter) { l.queue = append(l.queue, w) }

// takeQueue empties the queue.
func (l *activityLog) takeQueue() []waiter {
	taken := l.queue
	l.queue, l.stalled = nil, false
	return taken
}

// plan admits waiters from the head of the queue, as many as there is room for in one batch. fullNow is true if this call found
// that the next one has to wait for references to go, and the call before did not find that of the same waiter.
func (l *activityLog) plan() (b batch, fullNow bool) {
	for len(l.queue) > 0 {
		w := l.queue[0]
		cold, ownIdle := l.need(w)
		if len(b.updates)+cold > MaxAcquireExtents {
			return b, false
		}
		if cold > l.idle-ownIdle {
			fullNow = !l.stalled
			l.stalled = true
			return b, fullNow
		}
		l.stalled = false
		l.queue = l.queue[1:]
		l.admit(w, &b)
	}
	l.queue = nil
	return b, false
}

// need counts the extents of a waiter that have no slot, and those whose slot is idle and so can't be given to others.
func (l *activityLog) need(w waiter) (cold, ownIdle int) {
	for extent := w.first; extent <= w.last; extent++ {
		i, ok := l.index[extent]
		switch {
		case !ok:
			cold++
		case l.slots[i].references == 0:
			ownIdle++
		}
	}
	return cold, ownIdle
}

// admit references all extents of a waiter. Those that have a slot come first, so that none of them is evicted for the others.
func (l *activityLog) admit(w waiter, b *batch) {
	for extent := w.first; extent <= w.last; extent++ {
		if i, ok := l.index[extent]; ok {
			l.reference(i)
		}
	}
	for extent := w.first; extent <= w.last; extent++ {
		if _, ok := l.index[extent]; !ok {
			l.assign(extent, b)
		}
	}
	b.admitted = append(b.admitted, w)
}

// assign gives the slot that was idle for longest to an extent.
func (l *activityLog) assign(extent uint32, b *batch) {
	i := l.slots[l.anchor()].next
	l.removeIdle(i)
	s := &l.slots[i]
	if s.extent != noExtent {
		delete(l.index, s.extent)
		b.evicted = append(b.evicted, s.extent)
	}
	s.extent, s.references, s.pending = extent, 1, true
	l.index[extent] = i
	b.updates = append(b.updates, slotUpdate{slot: i, extent: extent})
}

// committed makes hot what a plan has assigned: the transaction is durable.
func (l *activityLog) committed(b batch) {
	for _, u := range b.updates {
		l.slots[u.slot].pending = false
	}
}
