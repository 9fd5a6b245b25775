package bitmap

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"duet/internal/crash"
)

// small has 40 extents in two pages and a log that is soon full.
var small = Config{DeviceBytes: 40*ExtentBytes - 1000, ALExtents: 8}

// waitFor fails the test if the channel stays silent. The time is only a bound, no test depends on it.
func waitFor[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("still waiting for %s", what)
		panic("unreachable")
	}
}

func TestFreshRegionIsCleanAndOpensWithoutWriting(t *testing.T) {
	r := formatted(t, small)
	r.recording = true
	s, recovery := opened(t, r, small, AllSlots)
	if !recovery.Clean || recovery != (Recovery{Clean: true}) {
		t.Errorf("recovery = %+v, want only Clean", recovery)
	}
	for slot := range Slots {
		if _, _, ok := s.NextDirty(slot, 0); ok || s.DirtyBlocks(slot) != 0 {
			t.Errorf("slot %d is not clean", slot)
		}
	}
	if slices.ContainsFunc(r.ops, isWrite) {
		t.Error("opening a clean region wrote to it")
	}
}

func TestBitsSurviveCleanClose(t *testing.T) {
	r := formatted(t, small)
	s, _ := opened(t, r, small, AllSlots)
	s.Set(SlotBit(1)|SlotBit(5), 10*BlockBytes+1, BlockBytes) // touches two blocks
	s.SetAll(2)
	s.SetAll(3)
	s.Clear(3, 0, 3*BlockBytes)
	if err := s.Close(true); err != nil {
		t.Fatal(err)
	}
	s, recovery := opened(t, r, small, AllSlots)
	if !recovery.Clean {
		t.Errorf("recovery = %+v, want clean", recovery)
	}
	blocks := s.g.blocks
	for slot, want := range []uint64{0, 2, blocks, blocks - 3, 0, 2, 0, 0} {
		if got := s.DirtyBlocks(slot); got != want {
			t.Errorf("slot %d has %d dirty blocks, want %d", slot, got, want)
		}
	}
	if start, count, ok := s.NextDirty(1, 0); start != 10 || count != 2 || !ok {
		t.Errorf("NextDirty = %d, %d, %v, want 10, 2, true", start, count, ok)
	}
	if start, _, _ := s.NextDirty(3, 0); start != 3 {
		t.Errorf("NextDirty of slot 3 starts at %d, want 3", start)
	}
}

func TestHotExtentsAreDirtyAfterCrash(t *testing.T) {
	r := formatted(t, small)
	s, _ := opened(t, r, small, AllSlots)
	acquire(t, s, 3, 4)
	acquire(t, s, 39, 39)
	s.Release(3, 4)
	s, recovery := opened(t, r.clone(), small, SlotBit(0)|SlotBit(7))
	if recovery.HotExtents != 3 || recovery.Clean || recovery.LogDamaged {
		t.Errorf("recovery = %+v, want 3 hot extents", recovery)
	}
	_, end := s.g.extentBlocks(39)
	want := uint64(2*blocksPerExtent) + end - 39*blocksPerExtent
	for _, slot := range []int{0, 7} {
		if got := s.DirtyBlocks(slot); got != want || !s.IsDirty(slot, 3*ExtentBytes, 1) {
			t.Errorf("slot %d has %d dirty blocks, want %d", slot, got, want)
		}
	}
	if s.DirtyBlocks(1) != 0 {
		t.Error("a slot that was not asked for became dirty")
	}
}

func TestTryAcquireNeedsEveryExtentHot(t *testing.T) {
	s, _ := opened(t, formatted(t, small), small, AllSlots)
	acquire(t, s, 3, 4)
	if s.TryAcquire(3, 5) {
		t.Fatal("TryAcquire took a cold extent")
	}
	if !s.TryAcquire(3, 4) || s.Stats().HeldExtents != 2 {
		t.Fatal("TryAcquire refused hot extents")
	}
	s.Retain(3, 3)
	s.Release(3, 4)
	s.Release(3, 4)
	if s.Stats().HeldExtents != 1 {
		t.Fatal("the retained extent is not held")
	}
	s.Release(3, 3)
	defer func() {
		if recover() == nil {
			t.Error("a release too many was not noticed")
		}
		s.logMu.Unlock()
	}()
	s.Release(3, 3)
}

func TestAcquireThatCanNeverBeGranted(t *testing.T) {
	s, _ := opened(t, formatted(t, small), small, AllSlots)
	for _, c := range []struct {
		first, last uint32
		want        error
	}{{0, 8, ErrTooManyExtents}, {39, 40, ErrOutOfRange}, {2, 1, ErrOutOfRange}} {
		if err := acquireErr(s, c.first, c.last); !errors.Is(err, c.want) {
			t.Errorf("Acquire(%d, %d) = %v, want %v", c.first, c.last, err, c.want)
		}
	}
	acquire(t, s, 0, 7)
}

func TestManyAcquiresShareOneSync(t *testing.T) {
	cfg := Config{DeviceBytes: 4096 * ExtentBytes}
	r := formatted(t, cfg)
	s, _ := opened(t, r, cfg, AllSlots)
	syncing, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.set(func() {
		r.onSync = func() {
			once.Do(func() { close(syncing); <-proceed })
		}
	})
	results := make(chan error, 1001)
	s.Acquire(0, 0, func(err error) { results <- err })
	waitFor(t, "the first sync", syncing)
	for i := range uint32(200) {
		s.Acquire(1+i, 1+i, func(err error) { results <- err })
	}
	before := s.Stats()
	close(proceed)
	for range 201 {
		if err := waitFor(t, "a grant", results); err != nil {
			t.Fatal(err)
		}
	}
	after := s.Stats()
	if syncs, blocks := after.Syncs-before.Syncs, after.Transactions-before.Transactions; syncs != 1 || blocks != 4 {
		t.Errorf("200 extents took %d syncs and %d transactions, want 1 and 4", syncs, blocks)
	}
}

func TestFullLogCallsOnFullOncePerStall(t *testing.T) {
	full := make(chan struct{}, 10)
	cfg := small
	cfg.OnFull = func() { full <- struct{}{} }
	s, _ := opened(t, formatted(t, cfg), cfg, AllSlots)
	acquire(t, s, 0, 7)
	granted := make(chan int, 3)
	s.Acquire(10, 11, func(error) { granted <- 1 })
	waitFor(t, "OnFull", full)
	s.Acquire(20, 20, func(error) { granted <- 2 })
	if !s.Stalled() || s.TryAcquire(0, 0) {
		t.Error("a hot extent was taken past a request that waits for references to go")
	}
	s.Release(0, 0)
	s.Release(1, 1)
	if got := waitFor(t, "the first", granted); got != 1 {
		t.Errorf("request %d was granted first", got)
	}
	waitFor(t, "OnFull of the second stall", full)
	s.Release(2, 2)
	waitFor(t, "the second", granted)
	if len(full) != 0 || s.Stats().Stalls != 2 || s.Stalled() {
		t.Errorf("OnFull was called %d times too often, %d stalls counted, want 2", len(full), s.Stats().Stalls)
	}
}

func TestEvictionPersistsBitsFirst(t *testing.T) {
	r := formatted(t, small)
	s, _ := opened(t, r, small, AllSlots)
	acquire(t, s, 0, 0)
	s.Set(SlotBit(6), 5*BlockBytes, 1)
	s.Release(0, 0)
	acquire(t, s, 10, 17) // pushes extent 0 out
	if got := s.Stats(); got.Evictions != 1 || got.PagesWritten != 1 {
		t.Errorf("stats = %+v, want one eviction and one page", got)
	}
	after, recovery := opened(t, r.clone(), small, 0)
	if recovery.HotExtents != 8 || after.DirtyBlocks(6) != 1 || !after.IsDirty(6, 5*BlockBytes, 1) {
		t.Errorf("the bit of an evicted extent is lost: %+v, %d dirty", recovery, after.DirtyBlocks(6))
	}
}

func TestEvictionDoesNotWaitForClearedBits(t *testing.T) {
	s, _ := opened(t, formatted(t, small), small, AllSlots)
	s.Set(SlotBit(0), 0, 10*BlockBytes)
	if err := s.Persist(AllSlots); err != nil {
		t.Fatal(err)
	}
	before := s.Stats().PagesWritten
	acquire(t, s, 0, 0)
	s.Clear(0, 0, 5*BlockBytes)
	s.Release(0, 0)
	acquire(t, s, 10, 17)
	if got := s.Stats().PagesWritten; got != before {
		t.Errorf("eviction wrote %d pages that only had bits cleared", got-before)
	}
}

// TestEvictionWaitsForPersistInProgress stops a Persist between its write of a page and the sync. The bits are then in no page
// that is noted as changed, and yet not durable.
func TestEvictionWaitsForPersistInProgress(t *testing.T) {
	r := formatted(t, small)
	s, _ := opened(t, r, small, AllSlots)
	acquire(t, s, 0, 0)
	s.Set(SlotBit(6), 5*BlockBytes, 1)
	s.Release(0, 0)
	syncing, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.set(func() {
		r.recording = true
		r.onSync = func() { once.Do(func() { close(syncing); <-proceed }) }
	})
	persisted, granted := make(chan error, 1), make(chan error, 1)
	go func() { persisted <- s.Persist(AllSlots) }()
	waitFor(t, "the sync of Persist", syncing)
	s.Acquire(10, 17, func(err error) { granted <- err })
	for s.Stats().Waiting > 0 {
		runtime.Gosched() // until the commit loop has taken it up
	}
	close(proceed)
	for _, c := range []chan error{persisted, granted} {
		if err := waitFor(t, "Persist and Acquire", c); err != nil {
			t.Fatal(err)
		}
	}
	synced := slices.IndexFunc(r.ops, func(op crash.Op) bool { return !isWrite(op) })
	logged := slices.IndexFunc(r.ops, func(op crash.Op) bool {
		return isWrite(op) && op.Offset < s.g.logOffset(s.g.logBlocks)
	})
	if synced < 0 || logged < synced {
		t.Errorf("the log was written (operation %d) before the evicted bits were durable (operation %d)", logged, synced)
	}
}

func TestPersistWritesOnlyWhatChanged(t *testing.T) {
	s, _ := opened(t, formatted(t, small), small, AllSlots)
	step := func(want Stats) {
		t.Helper()
		before := s.Stats()
		if err := s.Persist(AllSlots); err != nil {
			t.Fatal(err)
		}
		after := s.Stats()
		got := Stats{
			PagesWritten:     after.PagesWritten - before.PagesWritten,
			DirectoryWritten: after.DirectoryWritten - before.DirectoryWritten,
			Syncs:            after.Syncs - before.Syncs,
		}
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	step(Stats{})
	s.Set(SlotBit(0)|SlotBit(1), 0, 1)
	step(Stats{PagesWritten: 2, DirectoryWritten: 2, Syncs: 2}) // the pages are new to the directory
	step(Stats{})
	s.Set(SlotBit(1), 8*BlockBytes, 1)
	step(Stats{PagesWritten: 1, Syncs: 1})
	s.Set(SlotBit(1), 8*BlockBytes, 1)
	step(Stats{})
	s.SetAll(7)
	step(Stats{DirectoryWritten: 2, Syncs: 1})
	s.ClearAll(7)
	step(Stats{DirectoryWritten: 2, Syncs: 2}) // the mirror of the step before, then copy 0
}

func TestFailureIsForGood(t *testing.T) {
	boom := fmt.Errorf("no luck: %w", syscall.EIO)
	for _, c := range []struct {
		name string
		fail func(r *memoryRegion)
	}{
		{"write", func(r *memoryRegion) { r.failWrites = boom }},
		{"sync", func(r *memoryRegion) { r.failSyncs = boom }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := formatted(t, small)
			s, _ := opened(t, r, small, AllSlots)
			acquire(t, s, 0, 0)
			r.set(func() { c.fail(r) })
			for range 2 { // The second time shows that it does not heal.
				if err := acquireErr(s, 1, 1); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
					t.Errorf("Acquire = %v, want the failure", err)
				}
				r.set(func() { r.failWrites, r.failSyncs = nil, nil })
			}
			if s.TryAcquire(0, 0) {
				t.Error("a failed store let a write start")
			}
			s.Set(SlotBit(0), 0, 1)
			if err := s.Persist(AllSlots); !errors.Is(err, syscall.EIO) {
				t.Errorf("Persist = %v, want the failure", err)
			}
			if err := s.Err(); !errors.Is(err, syscall.EIO) {
				t.Errorf("Err = %v, want the failure", err)
			}
			if err := s.Close(true); !errors.Is(err, syscall.EIO) {
				t.Errorf("Close = %v, want the failure", err)
			}
		})
	}
}

func TestFailureReachesEveryWaiter(t *testing.T) {
	r := formatted(t, small)
	s, _ := opened(t, r, small, AllSlots)
	acquire(t, s, 0, 7)
	results := make(chan error, 3)
	for i := range uint32(3) {
		s.Acquire(10+i, 10+i, func(err error) { results <- err })
	}
	r.set(func() { r.failSyncs = syscall.ENOSPC })
	s.Set(SlotBit(0), 0, 1)
	if err := s.Persist(SlotBit(0)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Persist = %v", err)
	}
	for range 3 {
		if err := waitFor(t, "a refusal", results); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a waiter got %v", err)
		}
	}
}

func TestCloseTellsWaitersAndIsIdempotent(t *testing.T) {
	r := formatted(t, small)
	s, _ := opened(t, r, small, AllSlots)
	acquire(t, s, 0, 7)
	result := make(chan error, 2)
	s.Acquire(8, 8, func(err error) { result <- err })
	if err := s.Close(true); !errors.Is(err, ErrBusy) {
		t.Errorf("Close = %v, want ErrBusy", err)
	}
	if err := s.Close(false); !errors.Is(err, ErrBusy) {
		t.Errorf("second Close = %v, want the first one's result", err)
	}
	if err := <-result; !errors.Is(err, ErrClosed) {
		t.Errorf("waiter got %v, want ErrClosed", err)
	}
	s.Acquire(8, 8, func(err error) { result <- err })
	if err := <-result; !errors.Is(err, ErrClosed) {
		t.Errorf("late Acquire got %v, want ErrClosed", err)
	}
	if err := s.Persist(AllSlots); !errors.Is(err, ErrClosed) {
		t.Errorf("late Persist = %v, want ErrClosed", err)
	}
	if _, recovery := opened(t, r.clone(), small, AllSlots); recovery.HotExtents != 8 {
		t.Errorf("recovery = %+v: the refused clean close lost hot extents", recovery)
	}
}

func TestDamageCountsAsDirty(t *testing.T) {
	prepare := func(t *testing.T) (*memoryRegion, *geometry) {
		r := formatted(t, small)
		s, _ := opened(t, r, small, AllSlots)
		s.Set(SlotBit(2), 0, 1)
		if err := s.Close(true); err != nil {
			t.Fatal(err)
		}
		return r, &s.g
	}
	open := func(t *testing.T, r *memoryRegion) (*Store, Recovery) {
		opened(t, r, small, AllSlots)        // repairs
		return opened(t, r, small, AllSlots) // and what it repaired stays dirty
	}
	t.Run("page", func(t *testing.T) {
		for name, damage := range map[string]func(r *memoryRegion, at int64){
			"flipped bit": func(r *memoryRegion, at int64) { r.content.Flip(at, 4000*8) },
			"zeroes":      func(r *memoryRegion, at int64) { r.content.Discard(at) },
			"misplaced":   func(r *memoryRegion, at int64) { r.content.Put(r.block(at), at+diskBlockBytes); r.content.Discard(at) },
		} {
			r, g := prepare(t)
			damage(r, g.pageOffset(2, 0))
			s, _ := open(t, r)
			if got, want := s.DirtyBlocks(2), uint64(blocksPerPage); got != want {
				t.Errorf("%s: %d dirty blocks, want %d", name, got, want)
			}
		}
	})
	t.Run("misplaced page", func(t *testing.T) {
		r, g := prepare(t)
		s, _ := opened(t, r, small, AllSlots)
		s.Set(SlotBit(2), 35*ExtentBytes, 1)
		if err := s.Close(true); err != nil {
			t.Fatal(err)
		}
		r.content.Put(r.block(g.pageOffset(2, 1)), g.pageOffset(2, 0))
		s, recovery := opened(t, r, small, AllSlots)
		if recovery.DamagedPages != 1 || s.DirtyBlocks(2) != blocksPerPage+1 {
			t.Errorf("recovery = %+v with %d dirty blocks", recovery, s.DirtyBlocks(2))
		}
	})
	t.Run("one directory copy", func(t *testing.T) {
		for dirCopy := range directoryCopies {
			r, g := prepare(t)
			r.content.Flip(g.directoryOffset(dirCopy, 0), 99)
			s, recovery := opened(t, r.clone(), small, AllSlots)
			if recovery.DamagedDirectoryCopies != 1 || recovery.Clean || s.DirtyBlocks(2) != 1 {
				t.Errorf("recovery = %+v with %d dirty blocks, want 1", recovery, s.DirtyBlocks(2))
			}
		}
	})
	t.Run("both directory copies", func(t *testing.T) {
		r, g := prepare(t)
		r.content.Flip(g.directoryOffset(0, 0), 99)
		r.content.Discard(g.directoryOffset(1, 0))
		s, _ := open(t, r)
		for slot := range Slots {
			if s.DirtyBlocks(slot) != g.blocks {
				t.Errorf("slot %d has %d dirty blocks, want all", slot, s.DirtyBlocks(slot))
			}
		}
	})
	t.Run("log", func(t *testing.T) {
		r, g := prepare(t)
		for position := range g.logBlocks {
			r.content.Flip(g.logOffset(position), 99)
		}
		s, recovery := opened(t, r, small, SlotBit(4))
		if !recovery.LogDamaged || s.DirtyBlocks(4) != g.blocks || s.DirtyBlocks(2) != 1 {
			t.Errorf("recovery = %+v with %d dirty blocks, want all", recovery, s.DirtyBlocks(4))
		}
	})
}

func TestForeignRegionIsRefusedAndLeftAlone(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *memoryRegion)
		cfg    Config
		want   error
	}{
		"not formatted": {func(r *memoryRegion) { r.content = crash.NewContent(r.size) }, small, ErrNotFormatted},
		"other size":    {func(*memoryRegion) {}, Config{DeviceBytes: small.DeviceBytes - 1, ALExtents: 8}, ErrGeometry},
		"other log":     {func(*memoryRegion) {}, Config{DeviceBytes: small.DeviceBytes, ALExtents: 9}, ErrGeometry},
		"too short":     {func(r *memoryRegion) { r.size-- }, small, ErrRegionTooSmall},
	} {
		r := formatted(t, small)
		c.change(r)
		r.recording = true
		if _, _, err := Open(r, c.cfg, AllSlots); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if len(r.ops) != 0 {
			t.Errorf("%s: the region was changed", name)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	for _, c := range []struct {
		cfg Config
		ok  bool
	}{
		{Config{DeviceBytes: 1}, true},
		{Config{}, false},
		{Config{DeviceBytes: MaxDeviceBytes + 1}, false},
		{Config{DeviceBytes: 1, ALExtents: MinALExtents - 1}, false},
		{Config{DeviceBytes: 1, ALExtents: -1}, false},
		{Config{DeviceBytes: MaxDeviceBytes, ALExtents: MaxALExtents}, true},
		{Config{DeviceBytes: 1, ALExtents: MaxALExtents + 1}, false},
	} {
		if err := c.cfg.Validate(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
}

// TestConcurrentUse is for the race detector, and checks that nobody is forgotten and no reference is lost.
func TestConcurrentUse(t *testing.T) {
	cfg := small
	r := formatted(t, cfg)
	s, _ := opened(t, r, cfg, AllSlots)
	var granted atomic.Int64
	var workers sync.WaitGroup
	for worker := range uint32(8) {
		workers.Go(func() {
			for i := range uint32(200) {
				first := (worker*7 + i*3) % 38
				last := first + i%3
				if err := acquireErr(s, first, min(last, 39)); err != nil {
					t.Error(err)
					return
				}
				granted.Add(1)
				slot := int(worker)
				off := uint64(first) * ExtentBytes
				s.Set(SlotBit(slot), off, 3*BlockBytes)
				s.Clear(slot, off, BlockBytes)
				s.NextDirty(slot, 0)
				if i%50 == 0 {
					if err := s.Persist(SlotBit(slot)); err != nil {
						t.Error(err)
					}
				}
				s.Release(first, min(last, 39))
			}
		})
	}
	workers.Wait()
	if granted.Load() != 1600 || s.Stats().HeldExtents != 0 {
		t.Errorf("%d granted, %d still held", granted.Load(), s.Stats().HeldExtents)
	}
	if err := s.Close(true); err != nil {
		t.Fatal(err)
	}
	again, recovery := opened(t, r, cfg, AllSlots)
	for slot := range Slots {
		if !recovery.Clean || again.DirtyBlocks(slot) != s.DirtyBlocks(slot) {
			t.Errorf("slot %d: %d dirty blocks on disk, %d in memory", slot, again.DirtyBlocks(slot), s.DirtyBlocks(slot))
		}
	}
}

// Test4TiB bounds what a big device costs. The times are generous: they catch anything that depends on the device's size.
func Test4TiB(t *testing.T) {
	cfg := Config{DeviceBytes: 4 << 40}
	r := newMemoryRegion(RegionBytes(cfg.DeviceBytes, 0))
	began := time.Now()
	if err := Format(r, cfg); err != nil {
		t.Fatal(err)
	}
	if got := r.content.Pages() * diskBlockBytes; got > 256<<10 {
		t.Errorf("formatting wrote %d bytes", got)
	}
	s, _ := opened(t, r, cfg, AllSlots)
	if got := s.MemoryBytes(); got > 1<<20 {
		t.Errorf("an empty store takes %d bytes", got)
	}
	s.SetAll(0)
	s.Set(AllSlots, 1<<40, 2<<40)
	for i := range uint64(100) {
		s.Set(SlotBit(1), i<<33, 5000)
		acquire(t, s, uint32(i*977), uint32(i*977))
		s.Release(uint32(i*977), uint32(i*977))
	}
	if got := s.MemoryBytes(); got > 4<<20 {
		t.Errorf("a store with a full slot takes %d bytes", got)
	}
	dirty := s.DirtyBlocks(1)
	if err := s.Close(true); err != nil {
		t.Fatal(err)
	}
	r.reads = 0
	s, recovery := opened(t, r, cfg, AllSlots)
	if !recovery.Clean || s.DirtyBlocks(0) != 1<<30 || s.DirtyBlocks(1) != dirty {
		t.Errorf("recovery = %+v, %d and %d dirty blocks", recovery, s.DirtyBlocks(0), s.DirtyBlocks(1))
	}
	if r.reads > 250 {
		t.Errorf("opening read %d blocks", r.reads)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}
