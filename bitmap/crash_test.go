package bitmap

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/bits-and-blooms/bitset"

	"duet/internal/crash"
)

// The crash test records every write and sync that a run of random operations makes, then goes through all points where the machine
// could have stopped. At each of them it builds what the medium may hold: everything up to the last completed
// sync, and of each later write nothing, all, or some sectors, others being garbage. It opens that and checks:
//
//   - what must be there is: the blocks of every write that was allowed to start and is not known stable everywhere, and every bit
//     that was set for a peer while its extent was held, or that Persist returned for;
//   - what is there may be: bits that were set since the last full Persist, and the extents in the log;
//   - damage is reported only where blocks were torn, and never for a directory block.
//
// Some of the recoveries are themselves recorded, stopped and repeated.

// crashRun is one recorded run and what its model knew after each step.
type crashRun struct {
	t     *testing.T
	cfg   Config
	peers SlotMask
	rng   *rand.Rand

	region *memoryRegion
	first  *memoryRegion          // the image before the run
	forget func(op crash.Op) bool // operations to leave out, to see that it is noticed; nil: none
	tried  int                    // images that were opened
	store  *Store
	model  crashModel
	states []crashState
}

// crashModel is what a perfect store would know. All bit sets are over blocks.
type crashModel struct {
	held  []heldWrite
	must  [Slots]*bitset.BitSet // bits that a crash must not lose
	loose [Slots]*bitset.BitSet // bits set without holding the extent; they become must with the next Persist
	ever  [Slots]*bitset.BitSet // bits that were in memory at some time since the last Persist of all slots
}

// heldWrite is a write that was allowed to start and has not been released.
type heldWrite struct {
	first, last uint32
	from, to    uint64 // blocks that it writes
}

// crashState is what may and must be on disk if the crash comes after ops operations and before the next step is over.
type crashState struct {
	ops  int
	step string
	must [Slots]*bitset.BitSet
	may  [Slots]*bitset.BitSet
}

func newCrashRun(t *testing.T, cfg Config, peers SlotMask, seed uint64) *crashRun {
	c := &crashRun{t: t, cfg: cfg, peers: peers, rng: rand.New(rand.NewPCG(seed, 1))}
	c.region = formatted(t, cfg)
	c.first = c.region.clone()
	c.region.recording = true
	c.store, _ = opened(t, c.region, cfg, peers)
	for slot := range Slots {
		blocks := uint(c.store.g.blocks)
		c.model.must[slot], c.model.loose[slot], c.model.ever[slot] = bitset.New(blocks), bitset.New(blocks), bitset.New(blocks)
	}
	c.note("start")
	return c
}

// note ends a step.
func (c *crashRun) note(step string) {
	state := crashState{ops: len(c.region.ops), step: step}
	for slot := range Slots {
		memory := c.memory(c.store, slot)
		c.model.ever[slot].InPlaceUnion(memory)
		state.must[slot] = c.model.must[slot].Clone()
		state.may[slot] = c.model.ever[slot].Clone()
		if !c.peers.Has(slot) {
			continue
		}
		for _, w := range c.model.held {
			state.must[slot].SetRange(uint(w.from), uint(w.to))
		}
		for extent := range c.store.log.index {
			start, end := c.store.g.extentBlocks(extent)
			state.may[slot].SetRange(uint(start), uint(end))
		}
	}
	c.states = append(c.states, state)
}

func (c *crashRun) memory(s *Store, slot int) *bitset.BitSet {
	b := bitset.New(uint(s.g.blocks))
	start, count, ok := s.NextDirty(slot, 0)
	for ; ok; start, count, ok = s.NextDirty(slot, start+count) {
		b.SetRange(uint(start), uint(start+count))
	}
	return b
}

func (c *crashRun) run(steps int, most uint32) {
	c.wholeSlot()
	for range steps {
		switch n := c.rng.IntN(100); {
		case n < 35:
			c.acquire(1 + c.rng.Uint32N(most))
		case n < 50:
			c.finish(false)
		case n < 75:
			c.finish(true)
		case n < 85:
			c.clear()
		case n < 90:
			c.setLoose()
		case n < 93:
			c.wholeSlot()
		case n < 97:
			c.persist(SlotMask(c.rng.Uint32N(256)))
		default:
			c.persist(AllSlots)
		}
	}
}

func (c *crashRun) acquire(n uint32) {
	first := c.rng.Uint32N(c.store.g.extents - n)
	last := first + n - 1
	held := map[uint32]bool{}
	for _, w := range c.model.held {
		for extent := w.first; extent <= w.last; extent++ {
			held[extent] = true
		}
	}
	for extent := first; extent <= last; extent++ {
		held[extent] = true
	}
	if len(held) > c.cfg.ALExtents {
		return // It would wait for ever, as nobody else releases anything.
	}
	acquire(c.t, c.store, first, last)
	start, end := uint64(first)*blocksPerExtent, min(uint64(last+1)*blocksPerExtent, c.store.g.blocks)
	from := start + c.rng.Uint64N(end-start)
	c.model.held = append(c.model.held, heldWrite{first, last, from, min(from+1+c.rng.Uint64N(4), end)})
	c.note(fmt.Sprintf("acquire %d to %d", first, last))
}

// finish releases a write, either because it's stable everywhere or after its bits were set for some peers.
func (c *crashRun) finish(dirty bool) {
	if len(c.model.held) == 0 {
		return
	}
	i := c.rng.IntN(len(c.model.held))
	w := c.model.held[i]
	c.model.held = append(c.model.held[:i:i], c.model.held[i+1:]...)
	if dirty {
		slots := c.peers & SlotMask(c.rng.Uint32N(256))
		c.store.Set(slots, w.from*BlockBytes, (w.to-w.from)*BlockBytes)
		slots.each(func(slot int) { c.model.must[slot].SetRange(uint(w.from), uint(w.to)) })
	}
	c.store.Release(w.first, w.last)
	c.note(fmt.Sprintf("finish %d to %d", w.first, w.last))
}

func (c *crashRun) clear() {
	slot, blocks := c.rng.IntN(Slots), c.store.g.blocks
	from := c.rng.Uint64N(blocks)
	to := min(from+1+c.rng.Uint64N(blocks), blocks)
	if c.rng.IntN(4) == 0 {
		from, to = 0, blocks
	}
	c.store.Clear(slot, from*BlockBytes, (to-from)*BlockBytes)
	for _, b := range []*bitset.BitSet{c.model.must[slot], c.model.loose[slot]} {
		b.SetRange(uint(from), uint(to)).FlipRange(uint(from), uint(to))
	}
	c.note("clear")
}

func (c *crashRun) setLoose() {
	slot, blocks := c.rng.IntN(Slots), c.store.g.blocks
	from := c.rng.Uint64N(blocks)
	to := min(from+1+c.rng.Uint64N(100), blocks)
	if c.rng.IntN(3) == 0 {
		from, to = 0, blocks
	}
	c.store.Set(SlotBit(slot), from*BlockBytes, (to-from)*BlockBytes)
	c.model.loose[slot].SetRange(uint(from), uint(to))
	c.note("set")
}

// wholeSlot makes changes that concern the directory alone, several in a row.
func (c *crashRun) wholeSlot() {
	slot := c.rng.IntN(Slots)
	c.store.SetAll(slot)
	c.model.loose[slot].SetAll()
	c.note("set all")
	c.persist(SlotBit(slot))
	c.store.ClearAll(slot)
	c.model.must[slot].ClearAll()
	c.model.loose[slot].ClearAll()
	c.note("clear all")
	c.persist(SlotBit(slot))
}

func (c *crashRun) persist(slots SlotMask) {
	if err := c.store.Persist(slots); err != nil {
		c.t.Fatal(err)
	}
	slots.each(func(slot int) {
		c.model.must[slot].InPlaceUnion(c.model.loose[slot])
		c.model.loose[slot].ClearAll()
		if slots == AllSlots {
			c.model.ever[slot].ClearAll()
		}
	})
	c.note(fmt.Sprintf("persist %08b", slots))
}

// closeClean ends the run orderly.
func (c *crashRun) closeClean() {
	for len(c.model.held) > 0 {
		c.finish(true)
	}
	if err := c.store.Close(true); err != nil {
		c.t.Fatal(err)
	}
	c.note("close")
}

// image is one thing that the medium may hold after a crash.
type image struct {
	region  *memoryRegion
	pending []crash.Op // writes that were done but not synced, if only the process died
	tornLog int
	torn    int
	damaged bool // recovery found damage, and marked more than otherwise
}

// explore goes through every crash point and tries up to perPoint images of each.
func (c *crashRun) explore(perPoint int) {
	durable := c.first.clone()
	var pending []crash.Op
	if c.forget != nil {
		c.region.ops = crash.Forget(c.region.ops, c.forget)
	}
	ops := c.region.ops
	for i := 0; i <= len(ops); i++ {
		for n := range perPoint {
			img := c.imageOf(durable, pending, n)
			c.check(i, img)
			if len(pending) == 0 {
				break
			}
		}
		if i == len(ops) {
			return
		}
		pending = append(pending, ops[i])
		if ops[i].Kind == crash.Sync {
			for _, op := range pending[:len(pending)-1] {
				durable.apply(op)
			}
			pending = nil
		}
	}
}

// imageOf makes the n-th image: nothing of the pending writes, all of them, all of them after the death of only the process, and then
// random mixtures.
func (c *crashRun) imageOf(durable *memoryRegion, pending []crash.Op, n int) image {
	img := image{region: durable.clone()}
	if n == 2 {
		img.pending = pending
	}
	for _, op := range pending {
		switch {
		case n == 1 || n == 2:
			img.region.apply(op)
		case n >= 3:
			c.maybe(&img, op)
		}
	}
	return img
}

// maybe does a write, or a part of it, or nothing of it.
func (c *crashRun) maybe(img *image, op crash.Op) {
	switch c.rng.IntN(3) {
	case 0:
		img.region.apply(op)
	case 1:
		img.region.content.Tear(op.Data, op.Offset, c.rng)
		img.torn++
		if op.Offset < c.store.g.logOffset(c.store.g.logBlocks) {
			img.tornLog++
		}
	}
}

// check opens an image that a crash before operation i may have left.
func (c *crashRun) check(i int, img image) {
	c.t.Helper()
	again := c.rng.IntN(8) == 0 || len(img.pending) > 0 && c.rng.IntN(2) == 0
	if again {
		img.region.recording = true
	}
	before := img.region.clone()
	c.tried++
	s, recovery, err := Open(img.region, c.cfg, c.peers)
	if err != nil {
		c.violation("crash at %d: %v", i, err)
	}
	c.compare(i, s, recovery, &img)
	if again && c.rng.IntN(2) == 0 {
		c.secondLife(s, &img)
	}
	if err := s.Close(c.rng.IntN(2) == 0); err != nil {
		c.t.Fatal(err)
	}
	if again {
		c.crashAgain(i, before, img)
	}
}

// secondLife changes something, the directory first, after a recovery and before it's stopped again. It only adds bits.
func (c *crashRun) secondLife(s *Store, img *image) {
	s.SetAll(c.rng.IntN(Slots))
	if err := s.Persist(AllSlots); err != nil {
		c.t.Fatal(err)
	}
	acquire(c.t, s, 0, 1)
	s.Release(0, 1)
	img.damaged = true // It is more than the model of the first life knows of.
}

// crashAgain stops the recovery of an image at every point and recovers once more. img.region has recorded it.
func (c *crashRun) crashAgain(i int, before *memoryRegion, img image) {
	durable, pending := before, append([]crash.Op(nil), img.pending...)
	if len(pending) > 0 {
		durable = c.withoutPending(i)
	}
	for _, op := range img.region.ops {
		pending = append(pending, op)
		if op.Kind == crash.Sync {
			for _, done := range pending[:len(pending)-1] {
				durable.apply(done)
			}
			pending = nil
		}
		second := image{region: durable.clone(), torn: img.torn, tornLog: img.tornLog, damaged: img.damaged}
		for _, op := range pending {
			c.maybe(&second, op)
		}
		if len(img.pending) == 0 {
			second.tornLog = img.tornLog // Recovery writes one block of the log at a time.
		}
		c.tried++
		s, recovery, err := Open(second.region, c.cfg, c.peers)
		if err != nil {
			c.violation("second crash at %d: %v", i, err)
		}
		c.compare(i, s, recovery, &second)
		if err := s.Close(false); err != nil {
			c.t.Fatal(err)
		}
	}
}

// violation ends the exploration, and the test unless a violation is what it looks for.
func (c *crashRun) violation(format string, args ...any) {
	c.t.Helper()
	err := fmt.Errorf(format, args...)
	if c.forget != nil {
		panic(foundViolation{err})
	}
	c.t.Fatal(err)
}

// foundViolation unwinds an exploration that was meant to fail.
type foundViolation struct{ error }

// withoutPending returns what is durable for sure before operation i.
func (c *crashRun) withoutPending(i int) *memoryRegion {
	r, synced := c.first.clone(), 0
	for at, op := range c.region.ops[:i] {
		if op.Kind == crash.Sync {
			for ; synced < at; synced++ {
				if write := c.region.ops[synced]; isWrite(write) {
					r.apply(write)
				}
			}
		}
	}
	return r
}

// compare checks what was recovered against what the model knew around operation i.
func (c *crashRun) compare(i int, s *Store, recovery Recovery, img *image) {
	c.t.Helper()
	if recovery.DamagedDirectoryBlocks > 0 || recovery.LogDamaged && img.tornLog < 2 || recovery.DamagedPages > img.torn {
		c.violation("crash at %d with %d blocks torn, %d of them of the log: %+v", i, img.torn, img.tornLog, recovery)
	}
	img.damaged = img.damaged || recovery.LogDamaged || recovery.DamagedPages > 0
	for slot := range Slots {
		got := c.memory(s, slot)
		may := bitset.New(uint(s.g.blocks))
		for n, state := range c.states {
			if state.ops > i && n > 0 && c.states[n-1].ops > i {
				break
			}
			overlaps := n+1 == len(c.states) || i <= c.states[n+1].ops
			if state.ops <= i && overlaps && !got.IsSuperSet(state.must[slot]) {
				c.violation("crash at %d, after step %d (%s), slot %d: %d blocks that must be dirty are not; %+v",
					i, n, state.step, slot, state.must[slot].DifferenceCardinality(got), recovery)
			}
			if overlaps {
				may.InPlaceUnion(state.may[slot])
			}
		}
		if !img.damaged && !may.IsSuperSet(got) {
			c.violation("crash at %d, slot %d: %d blocks are dirty for no reason; %+v",
				i, slot, got.DifferenceCardinality(may), recovery)
		}
	}
}

func TestCrashAnywhere(t *testing.T) {
	tried := 0
	for seed := range uint64(crashSeeds) {
		c := newCrashRun(t, Config{DeviceBytes: 40*ExtentBytes - 1000, ALExtents: 8}, 0b10100111, seed)
		c.run(60, 4)
		if seed%2 == 0 {
			c.closeClean()
		}
		c.explore(8)
		tried += c.tried
	}
	t.Logf("explored %d states", tried)
}

// TestCrashExplorationNoticesAMissingSync has every third sync of a run forgotten.
func TestCrashExplorationNoticesAMissingSync(t *testing.T) {
	c := newCrashRun(t, Config{DeviceBytes: 40*ExtentBytes - 1000, ALExtents: 8}, 0b10100111, 1)
	c.run(60, 4)
	syncs := 0
	c.forget = func(op crash.Op) bool {
		if op.Kind == crash.Sync {
			syncs++
		}
		return op.Kind == crash.Sync && syncs%3 == 0
	}
	defer func() {
		found, ok := recover().(foundViolation)
		if !ok {
			t.Fatal("a run without every third sync lost nothing")
		}
		t.Logf("found after %d states: %v", c.tried, found)
	}()
	c.explore(8)
}

// TestCrashInBigBatches has transactions of several blocks and a table that no single one of them holds.
func TestCrashInBigBatches(t *testing.T) {
	c := newCrashRun(t, Config{DeviceBytes: 1100 * ExtentBytes, ALExtents: 900}, 0b00000011, 7)
	c.run(5+4*crashSeeds, 256)
	c.explore(6)
	t.Logf("explored %d states", c.tried)
}

// TestCrashInDirectory has nothing but changes of the directory, and many images of each crash.
func TestCrashInDirectory(t *testing.T) {
	c := newCrashRun(t, Config{DeviceBytes: 40 * ExtentBytes, ALExtents: 8}, 0b11, 3)
	for range 3 {
		c.wholeSlot()
	}
	for range 3 * crashSeeds {
		c.explore(10)
	}
	t.Logf("explored %d states", c.tried)
}
