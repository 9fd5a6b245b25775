package bitmap

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// simulatedLog is a ring on a medium, and what was promised of it.
type simulatedLog struct {
	g    geometry
	w    *logWriter
	ring map[uint32][]byte // by position
	hot  map[uint32]uint32 // slot to extent, as of the last sync
	rng  *rand.Rand
}

func newSimulatedLog(extents int, rng *rand.Rand) *simulatedLog {
	l := &simulatedLog{g: newGeometry(1<<40, extents), ring: map[uint32][]byte{}, hot: map[uint32]uint32{}, rng: rng}
	l.w = newLogWriter(&l.g, 0)
	b := make([]byte, diskBlockBytes)
	l.ring[l.w.reset(b)] = b
	l.w.synced()
	return l
}

// batch makes n blocks of random updates, not yet on the medium.
func (l *simulatedLog) batch(n int) (blocks map[uint32][]byte, order []uint32, hot map[uint32]uint32) {
	blocks, hot = map[uint32][]byte{}, maps.Clone(l.hot)
	for range n {
		var updates []slotUpdate
		used := map[uint32]bool{}
		for range l.rng.IntN(updatesPerBlock + 1) {
			u := slotUpdate{slot: l.rng.Uint32N(l.g.alExtents), extent: l.rng.Uint32N(l.g.extents)}
			if !used[u.slot] {
				used[u.slot] = true
				updates = append(updates, u)
				hot[u.slot] = u.extent
			}
		}
		b := make([]byte, diskBlockBytes)
		position := l.w.transaction(b, updates)
		blocks[position] = b
		order = append(order, position)
	}
	return blocks, order, hot
}

func (l *simulatedLog) replay(t interface{ Fatal(...any) }) (*ring, replayed) {
	r := newRing(&l.g)
	for position := range l.g.logBlocks {
		b := l.ring[position]
		if b == nil {
			b = make([]byte, diskBlockBytes)
		}
		if err := r.add(position, b); err != nil {
			t.Fatal(err)
		}
	}
	return r, r.replay()
}

// values returns what a table holds, ascending and without repetition.
func values(table map[uint32]uint32) []uint32 {
	return slices.Compact(slices.Sorted(maps.Values(table)))
}

// TestRingModel commits batches and then loses any part of the last one. What was promised before must be there, but for slots that
// the lost batch gave to others.
func TestRingModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		l := newSimulatedLog(rapid.SampledFrom([]int{8, 880, 881, 1800}).Draw(t, "extents"), rng)
		for i := range rapid.IntRange(0, 40).Draw(t, "batches") {
			blocks, _, hot := l.batch(rapid.IntRange(1, maxBatchBlocks).Draw(t, "blocks"))
			maps.Copy(l.ring, blocks)
			l.hot = hot
			l.w.synced()
			if i%8 != 0 {
				continue
			}
			if _, got := l.replay(t); !slices.Equal(got.hot, values(hot)) || got.damaged || got.clean {
				t.Fatalf("%d hot extents, want %d; %+v", len(got.hot), len(hot), got.damaged)
			}
		}
		blocks, order, after := l.batch(rapid.IntRange(1, maxBatchBlocks).Draw(t, "last"))
		torn := rapid.IntRange(-1, len(order)-1).Draw(t, "torn")
		for i, position := range order {
			if i == torn {
				l.ring[position] = slices.Repeat([]byte{0xa5}, diskBlockBytes)
			} else if rapid.Bool().Draw(t, "written") {
				l.ring[position] = blocks[position]
			}
		}
		_, got := l.replay(t)
		if got.damaged {
			t.Fatal("what a crash explains was taken for damage")
		}
		for slot, extent := range l.hot {
			if after[slot] == extent && !slices.Contains(got.hot, extent) {
				t.Fatalf("extent %d was promised and is not hot", extent)
			}
		}
		for _, extent := range got.hot {
			if !slices.Contains(values(l.hot), extent) && !slices.Contains(values(after), extent) && !mentioned(l, blocks, extent) {
				t.Fatalf("extent %d is hot for no reason", extent)
			}
		}
	})
}

// mentioned reports whether one of the blocks made an extent hot, if only for the time of a batch.
func mentioned(l *simulatedLog, blocks map[uint32][]byte, extent uint32) bool {
	for position, b := range blocks {
		d, err := decodeLogBlock(b, position, &l.g)
		if err == nil && slices.ContainsFunc(d.updates, func(u slotUpdate) bool { return u.extent == extent }) {
			return true
		}
	}
	return false
}

// TestRingDamage takes away blocks that no crash explains.
func TestRingDamage(t *testing.T) {
	prepare := func() *simulatedLog {
		l := newSimulatedLog(3000, rand.New(rand.NewPCG(1, 1))) // four blocks hold the table
		for range 30 {
			blocks, _, hot := l.batch(1)
			maps.Copy(l.ring, blocks)
			l.hot = hot
			l.w.synced()
		}
		return l
	}
	at := func(l *simulatedLog, back uint64) uint32 { return l.g.position(l.w.sequence - back) }
	bad := slices.Repeat([]byte{1}, diskBlockBytes)
	for name, c := range map[string]struct {
		damage func(l *simulatedLog)
		want   bool
	}{
		"none":                      {func(l *simulatedLog) {}, false},
		"newest":                    {func(l *simulatedLog) { l.ring[at(l, 0)] = bad }, false},
		"newest two":                {func(l *simulatedLog) { l.ring[at(l, 0)], l.ring[at(l, 1)] = bad, bad }, true},
		"one of the durable":        {func(l *simulatedLog) { l.ring[at(l, 2)] = bad }, true},
		"one of the durable, blank": {func(l *simulatedLog) { delete(l.ring, at(l, 2)) }, true},
		"oldest that is needed":     {func(l *simulatedLog) { l.ring[at(l, 4)] = bad }, true},
		"older than what is needed": {func(l *simulatedLog) { l.ring[at(l, 5)] = bad }, false},
		"old and newest":            {func(l *simulatedLog) { l.ring[at(l, 0)], l.ring[at(l, 7)] = bad, bad }, false},
		"misplaced":                 {func(l *simulatedLog) { l.ring[at(l, 2)] = l.ring[at(l, 3)] }, true},
		"everything":                {func(l *simulatedLog) { clear(l.ring) }, true},
	} {
		l := prepare()
		c.damage(l)
		_, got := l.replay(t)
		if got.damaged != c.want {
			t.Errorf("%s: damaged is %v, want %v", name, got.damaged, c.want)
		}
		if name == "old and newest" && len(got.hot) == 0 {
			t.Errorf("%s: nothing is hot", name)
		}
	}
}

// TestUnsoundBlockDoesNotOutliveRecovery makes sure that two crashes which tear one block each are not taken for damage.
func TestUnsoundBlockDoesNotOutliveRecovery(t *testing.T) {
	r := formatted(t, small)
	bad := slices.Repeat([]byte{1}, diskBlockBytes)
	r.content.Put(bad, 3*diskBlockBytes) // behind the reset with sequence 1
	s, recovery := opened(t, r, small, AllSlots)
	if recovery.UnsoundLogBlocks != 1 || recovery.LogDamaged || recovery.Clean {
		t.Fatalf("recovery = %+v", recovery)
	}
	if err := s.Close(false); err != nil {
		t.Fatal(err)
	}
	r.content.Put(bad, 4*diskBlockBytes)
	if _, recovery = opened(t, r, small, AllSlots); recovery.UnsoundLogBlocks != 1 || recovery.LogDamaged {
		t.Fatalf("recovery = %+v", recovery)
	}
}

func TestResetForgetsEverything(t *testing.T) {
	l := newSimulatedLog(900, rand.New(rand.NewPCG(2, 2)))
	for range 20 {
		blocks, _, _ := l.batch(2)
		maps.Copy(l.ring, blocks)
		l.w.synced()
	}
	b := make([]byte, diskBlockBytes)
	l.ring[l.w.reset(b)] = b
	if _, got := l.replay(t); !got.clean || len(got.hot) != 0 || got.damaged {
		t.Errorf("after a reset: %+v", got)
	}
	l.w.synced()
	l.hot = map[uint32]uint32{}
	blocks, _, hot := l.batch(1)
	maps.Copy(l.ring, blocks)
	if _, got := l.replay(t); !slices.Equal(got.hot, values(hot)) {
		t.Errorf("after a reset and a transaction: %d hot extents, want %d", len(got.hot), len(hot))
	}
}

// TestLogBlockOfOtherRegion shows that a sound block of another geometry is not taken for damage.
func TestLogBlockOfOtherRegion(t *testing.T) {
	g, other := newGeometry(1<<40, 1000), newGeometry(1<<40, 1001)
	b := make([]byte, diskBlockBytes)
	position := newLogWriter(&other, 0).reset(b)
	if err := newRing(&g).add(position, b); !errors.Is(err, ErrGeometry) {
		t.Errorf("got %v, want ErrGeometry", err)
	}
}
