package bitmap

import (
	"testing"

	"pgregory.net/rapid"
)

// naiveLog is the activity log as one would explain it: a list of hot extents, the least recently released first, and
// a count for each.
type naiveLog struct {
	size    int
	order   []uint32
	held    map[uint32]int
	waiting []waiter
}

func (n *naiveLog) hot(extent uint32) bool {
	for _, e := range n.order {
		if e == extent {
			return true
		}
	}
	return n.held[extent] > 0
}

func (n *naiveLog) take(w waiter) {
	for extent := w.first; extent <= w.last; extent++ {
		n.drop(extent)
		n.held[extent]++
	}
}

func (n *naiveLog) drop(extent uint32) {
	for i, e := range n.order {
		if e == extent {
			n.order = append(n.order[:i:i], n.order[i+1:]...)
		}
	}
}

func (n *naiveLog) heldExtents() int {
	total := 0
	for _, count := range n.held {
		if count > 0 {
			total++
		}
	}
	return total
}

// admit grants from the head of the queue while the held extents would fit, and forgets the least recently used idle ones.
func (n *naiveLog) admit() (granted int, evicted []uint32) {
	for len(n.waiting) > 0 {
		w, added := n.waiting[0], 0
		for extent := w.first; extent <= w.last; extent++ {
			if n.held[extent] == 0 {
				added++
			}
		}
		if n.heldExtents()+added > n.size {
			break
		}
		n.take(w)
		for n.heldExtents()+len(n.order) > n.size {
			evicted = append(evicted, n.order[0])
			n.order = n.order[1:]
		}
		n.waiting = n.waiting[1:]
		granted++
	}
	return granted, evicted
}

// logModel runs an activityLog and a naiveLog side by side.
type logModel struct {
	log   *activityLog
	naive *naiveLog
	mine  []waiter // granted and not released
}

func (m *logModel) try(t *rapid.T) {
	w := drawWaiter(t, m.naive.size)
	want := len(m.naive.waiting) == 0
	for extent := w.first; extent <= w.last; extent++ {
		want = want && m.naive.hot(extent)
	}
	if got := m.log.tryAcquire(w.first, w.last); got != want {
		t.Fatalf("tryAcquire(%d, %d) = %v, want %v", w.first, w.last, got, want)
	}
	if want {
		m.naive.take(w)
		m.mine = append(m.mine, w)
	}
}

func (m *logModel) acquire(t *rapid.T) {
	w := drawWaiter(t, m.naive.size)
	m.log.enqueue(w)
	m.naive.waiting = append(m.naive.waiting, w)
	m.serve(t)
}

// serve plans until nothing more is granted, as the commit loop does.
func (m *logModel) serve(t *rapid.T) {
	granted, evicted := m.naive.admit()
	var gotEvicted []uint32
	for {
		b, _ := m.log.plan()
		if len(b.admitted) == 0 {
			break
		}
		for _, u := range b.updates {
			if m.log.tryAcquire(u.extent, u.extent) {
				t.Fatalf("extent %d was taken before it was durable", u.extent)
			}
		}
		m.log.committed(b)
		granted -= len(b.admitted)
		m.mine = append(m.mine, b.admitted...)
		gotEvicted = append(gotEvicted, b.evicted...)
	}
	if granted != 0 || m.log.stalled != (len(m.naive.waiting) > 0) {
		t.Fatalf("%d more should have been granted; stalled is %v with %d waiting", granted, m.log.stalled, len(m.naive.waiting))
	}
	if len(gotEvicted) != len(evicted) {
		t.Fatalf("evicted %v, want %v", gotEvicted, evicted)
	}
	for i := range evicted {
		if gotEvicted[i] != evicted[i] {
			t.Fatalf("evicted %v, want %v", gotEvicted, evicted)
		}
	}
}

func (m *logModel) release(t *rapid.T) {
	if len(m.mine) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.mine)-1).Draw(t, "which")
	w := m.mine[i]
	m.mine = append(m.mine[:i:i], m.mine[i+1:]...)
	freed := false
	for extent := w.first; extent <= w.last; extent++ {
		if m.naive.held[extent]--; m.naive.held[extent] == 0 {
			m.naive.order = append(m.naive.order, extent)
			freed = true
		}
	}
	if wake := m.log.release(w.first, w.last); wake != (freed && len(m.naive.waiting) > 0) {
		t.Fatalf("release wakes: %v", wake)
	}
	m.serve(t)
}

func drawWaiter(t *rapid.T, size int) waiter {
	first := rapid.Uint32Range(0, 20).Draw(t, "first")
	return waiter{first: first, last: first + rapid.Uint32Range(0, uint32(size-1)).Draw(t, "more")}
}

func TestActivityLogModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 12).Draw(t, "size")
		m := &logModel{log: newActivityLog(uint32(size)), naive: &naiveLog{size: size, held: map[uint32]int{}}}
		t.Repeat(map[string]func(*rapid.T){
			"try":     m.try,
			"acquire": m.acquire,
			"release": m.release,
			"retain": func(t *rapid.T) {
				if len(m.mine) > 0 {
					w := m.mine[0]
					m.log.retain(w.first, w.last)
					m.naive.take(w)
					m.mine = append(m.mine, w)
				}
			},
			"": func(t *rapid.T) {
				if got, want := m.log.held(), m.naive.heldExtents(); got != want {
					t.Fatalf("%d held, want %d", got, want)
				}
			},
		})
	})
}

func TestBatchIsBounded(t *testing.T) {
	l := newActivityLog(2000)
	for i := range uint32(10) {
		l.enqueue(waiter{first: i * 100, last: i*100 + 99})
	}
	for total := 0; total < 10; {
		b, full := l.plan()
		if full || len(b.updates) > MaxAcquireExtents || len(b.admitted) == 0 {
			t.Fatalf("%d updates for %d, full is %v", len(b.updates), len(b.admitted), full)
		}
		l.committed(b)
		total += len(b.admitted)
	}
}
