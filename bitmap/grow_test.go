package bitmap

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// growModel is what a Store that grows should hold: one bool per block and slot.
type growModel struct {
	t     *testing.T
	rng   *rand.Rand
	cfg   Config
	r     *memoryRegion
	s     *Store
	bits  [Slots][]bool
	grown int
}

func newGrowModel(t *testing.T, deviceBytes uint64, seed uint64) *growModel {
	m := &growModel{t: t, rng: rand.New(rand.NewPCG(seed, 3)), cfg: Config{DeviceBytes: deviceBytes, ALExtents: 8}}
	m.r = formatted(t, m.cfg)
	m.s, _ = opened(t, m.r, m.cfg, AllSlots)
	m.lengthen()
	return m
}

func (m *growModel) lengthen() {
	for slot := range m.bits {
		more := ceilDiv(m.cfg.DeviceBytes, BlockBytes) - uint64(len(m.bits[slot]))
		m.bits[slot] = append(m.bits[slot], make([]bool, more)...)
	}
}

// leftover is a region of the size wanted that held something else before.
func (m *growModel) leftover(cfg Config) *memoryRegion {
	other := cfg
	other.DeviceBytes += 100 * ExtentBytes
	old := formatted(m.t, other)
	old.size = RegionBytes(cfg.DeviceBytes, cfg.ALExtents)
	return old
}

func (m *growModel) grow(deviceBytes uint64, dirty SlotMask) {
	next := m.cfg
	next.DeviceBytes = deviceBytes
	r := m.leftover(next)
	switched := false
	if err := m.s.Grow(Growth{Region: r, DeviceBytes: deviceBytes, Dirty: dirty, Switch: func() error { switched = true; return nil }}); err != nil || !switched {
		m.t.Fatalf("grow to %d: %v, switched: %v", deviceBytes, err, switched)
	}
	from := m.cfg.DeviceBytes / BlockBytes
	m.cfg, m.r = next, r
	m.lengthen()
	m.grown++
	for slot := range m.bits {
		for block := from; dirty.Has(slot) && block < uint64(len(m.bits[slot])); block++ {
			m.bits[slot][block] = true
		}
	}
}

func (m *growModel) put(slot int, value bool) {
	blocks := uint64(len(m.bits[slot]))
	from := m.rng.Uint64N(blocks)
	n := 1 + m.rng.Uint64N(min(blocks-from, 3*blocksPerExtent))
	if m.rng.IntN(3) == 0 { // up to the end
		n = blocks - from
	}
	if value {
		m.s.Set(SlotBit(slot), from*BlockBytes, n*BlockBytes)
	} else {
		m.s.Clear(slot, from*BlockBytes, n*BlockBytes)
	}
	for block := from; block < from+n; block++ {
		m.bits[slot][block] = value
	}
}

func (m *growModel) all(slot int, value bool) {
	if value {
		m.s.SetAll(slot)
	} else {
		m.s.ClearAll(slot)
	}
	for block := range m.bits[slot] {
		m.bits[slot][block] = value
	}
}

// check compares all bits, and the counts.
func (m *growModel) check(what string) {
	m.t.Helper()
	for slot := range Slots {
		found := make([]bool, len(m.bits[slot]))
		for start, count, ok := m.s.NextDirty(slot, 0); ok; start, count, ok = m.s.NextDirty(slot, start+count) {
			for block := start; block < start+count; block++ {
				found[block] = true
			}
		}
		dirty := uint64(0)
		for block, want := range m.bits[slot] {
			if want {
				dirty++
			}
			if found[block] != want {
				m.t.Fatalf("%s: slot %d, block %d of %d is %v", what, slot, block, len(found), found[block])
			}
		}
		if got := m.s.DirtyBlocks(slot); got != dirty {
			m.t.Fatalf("%s: slot %d has %d dirty blocks, want %d", what, slot, got, dirty)
		}
	}
}

func (m *growModel) reopen(clean bool) Recovery {
	m.t.Helper()
	if err := m.s.Close(clean); err != nil {
		m.t.Fatal(err)
	}
	var recovery Recovery
	m.s, recovery = opened(m.t, m.r, m.cfg, 0)
	return recovery
}

// Whatever was set before and after, a store that grows holds what a store of the final size would.
func TestGrowAgainstAModel(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newGrowModel(t, (1+seed)*3*ExtentBytes+seed*BlockBytes, seed)
			for range 60 {
				slot := m.rng.IntN(Slots)
				switch n := m.rng.IntN(100); {
				case n < 40:
					m.put(slot, true)
				case n < 60:
					m.put(slot, false)
				case n < 70:
					m.all(slot, n < 65)
				case n < 80:
					if err := m.s.Persist(SlotMask(m.rng.Uint32())); err != nil {
						t.Fatal(err)
					}
				case n < 88 && len(m.bits[0]) < 200*blocksPerExtent:
					more := 1 + m.rng.Uint64N(40*blocksPerExtent)
					if m.rng.IntN(4) == 0 {
						more = 1
					}
					m.grow(m.cfg.DeviceBytes+more*BlockBytes, SlotMask(m.rng.Uint32()&m.rng.Uint32()))
				case n < 94:
					if recovery := m.reopen(true); !recovery.Clean {
						t.Fatalf("recovery is %+v", recovery)
					}
				default:
					if err := m.s.Persist(AllSlots); err != nil {
						t.Fatal(err)
					}
					m.reopen(false)
				}
				m.check("after an operation")
			}
			m.grow(m.cfg.DeviceBytes+ExtentBytes, 0)
			m.check("in the end")
			m.reopen(false)
			m.check("opened without a word")
		})
	}
}

// Extents stay hot over a growth, held ones too, and all of them count after a crash.
func TestGrowKeepsWhatIsHot(t *testing.T) {
	m := newGrowModel(t, 40*ExtentBytes, 1)
	acquire(t, m.s, 3, 4)
	acquire(t, m.s, 39, 39)
	m.s.Release(3, 4)
	m.s.Set(SlotBit(1), 39*ExtentBytes, BlockBytes)
	m.grow(100*ExtentBytes, 0)
	if !m.s.TryAcquire(3, 4) || m.s.TryAcquire(5, 5) {
		t.Fatal("the table has changed")
	}
	m.s.Release(3, 4)
	acquire(t, m.s, 99, 99)
	after, recovery := opened(t, m.r.clone(), m.cfg, SlotBit(1))
	if recovery.HotExtents != 4 || recovery.LogDamaged || after.DirtyBlocks(1) != 4*blocksPerExtent {
		t.Errorf("recovery is %+v, %d blocks are dirty", recovery, after.DirtyBlocks(1))
	}
	m.s.Release(39, 39)
	m.s.Release(99, 99)
	if err := m.s.Close(true); err != nil {
		t.Fatal(err)
	}
}

// What goes on meanwhile is neither lost nor stopped for good.
func TestGrowWhileUsed(t *testing.T) {
	m := newGrowModel(t, 40*ExtentBytes, 1)
	stop := make(chan struct{})
	var users sync.WaitGroup
	for user := range uint32(4) {
		users.Go(func() {
			for i := uint32(0); ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				extent := (user + 4*i) % 40
				if err := acquireErr(m.s, extent, extent); err != nil {
					t.Error(err)
					return
				}
				m.s.Set(SlotBit(int(user)), uint64(extent)*ExtentBytes, BlockBytes)
				m.s.Release(extent, extent)
				if err := m.s.Persist(SlotBit(int(user))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for extents := uint64(41); extents < 60; extents++ {
		m.grow(extents*ExtentBytes, 0)
	}
	close(stop)
	users.Wait()
	dirty := [Slots]uint64{}
	for slot := range Slots {
		dirty[slot] = m.s.DirtyBlocks(slot)
	}
	m.reopen(true)
	for slot := range Slots {
		if got := m.s.DirtyBlocks(slot); got != dirty[slot] || slot < 4 && got == 0 {
			t.Errorf("slot %d: %d dirty blocks, want %d", slot, got, dirty[slot])
		}
	}
}

func TestGrowThatFails(t *testing.T) {
	m := newGrowModel(t, 40*ExtentBytes, 1)
	larger := Config{DeviceBytes: 50 * ExtentBytes, ALExtents: 8}
	short := newMemoryRegion(RegionBytes(larger.DeviceBytes, 8) - diskBlockBytes)
	growth := Growth{Region: short, DeviceBytes: larger.DeviceBytes, Switch: func() error { return nil }}
	if err := m.s.Grow(growth); !errors.Is(err, ErrRegionTooSmall) || m.s.Err() != nil {
		t.Errorf("a region that is too small: %v, %v", err, m.s.Err())
	}
	growth.DeviceBytes = 40 * ExtentBytes
	if err := m.s.Grow(growth); err == nil || m.s.Err() != nil {
		t.Errorf("no growth: %v, %v", err, m.s.Err())
	}
	boom := errors.New("boom")
	growth = Growth{Region: formatted(t, larger), DeviceBytes: larger.DeviceBytes, Switch: func() error { return boom }}
	if err := m.s.Grow(growth); !errors.Is(err, boom) || m.s.Err() == nil {
		t.Errorf("a switch that fails: %v, %v", err, m.s.Err())
	}
	if err := m.s.Close(false); err != nil {
		t.Fatal(err)
	}
	if err := m.s.Grow(growth); err == nil {
		t.Error("a closed store has grown")
	}
}

// A store that knows of nothing leaves nothing of what was in the larger region before.
func TestGrowOfACleanStore(t *testing.T) {
	m := newGrowModel(t, 40*ExtentBytes, 1)
	m.grow(50*ExtentBytes, 0)
	m.reopen(false)
	m.check("opened again")
}
