package replication

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"duet/bitmap"
	"duet/internal/crash"
)

const (
	growFromBytes = 40 * bitmap.ExtentBytes // two pages, the last of them partial
	growToBytes   = 70 * bitmap.ExtentBytes
	growPeers     = bitmap.SlotMask(1<<1 | 1<<2 | 1<<4)
)

// growRun is a replica whose activity log and bitmaps are used, and which grows in between.
type growRun struct {
	*crash.Recorder
	file  int
	super *superblockStore
	store *bitmap.Store
	must  []growPromise // in the order of their marks
}

// growPromise is what may not be lost from a mark on.
type growPromise struct {
	mark    string
	slot    int
	off, n  uint64
	hot     bool // only for as long as the store is not closed clean
	largest bool // the size
}

func newGrowRun(t *testing.T) *growRun {
	t.Helper()
	sb := Superblock{SizeBytes: growFromBytes, ALExtents: 16}
	image := crash.NewImage()
	file := image.AddFile(sb.grownTo(growToBytes).TotalBytes)
	before := crash.NewRecorder(image)
	cfg := FormatConfig{ClusterID: "c", Resource: "r0", Node: "a", ResourceID: [16]byte{1}, SizeBytes: growFromBytes, ALExtents: 16}
	// What former metadata have left where the larger region is going to be: whole ones, of another device.
	leftover := bitmap.Config{DeviceBytes: 90 * bitmap.ExtentBytes, ALExtents: 16}
	layout := sb.grownTo(growToBytes)
	behind := newBitmapRegion(before.Region(file), layout)
	if err := bitmap.Format(wideRegion{behind, bitmap.RegionBytes(leftover.DeviceBytes, 16)}, leftover); err != nil {
		t.Fatal(err)
	}
	if err := Format(before.Region(file), cfg); err != nil {
		t.Fatal(err)
	}
	run := &growRun{Recorder: crash.NewRecorder(before.Image()), file: file}
	run.open(t)
	return run
}

// wideRegion lets a region be formatted for a device whose pages would not fit.
type wideRegion struct {
	bitmap.Region
	size int64
}

func (r wideRegion) Size() int64 { return r.size }

// open is the start of a process.
func (run *growRun) open(t *testing.T) {
	t.Helper()
	var err error
	if run.super, _, err = openSuperblock(run.Region(run.file)); err != nil {
		t.Fatal(err)
	}
	sb := run.super.superblock()
	cfg := bitmap.Config{DeviceBytes: sb.SizeBytes, ALExtents: sb.ALExtents}
	if run.store, _, err = bitmap.Open(newBitmapRegion(run.Region(run.file), sb.Layout()), cfg, growPeers); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run.store.Close(false); err != nil {
			t.Error(err)
		}
	})
}

func (run *growRun) promise(p growPromise) {
	p.mark = fmt.Sprintf("promise %d", len(run.must))
	run.must = append(run.must, p)
	run.Mark("%s", p.mark)
}

// heat makes an extent hot: from then on all of it counts, whatever is lost.
func (run *growRun) heat(t *testing.T, extent uint32) {
	t.Helper()
	granted := make(chan error, 1)
	run.store.Acquire(extent, extent, func(err error) { granted <- err })
	if err := <-granted; err != nil {
		t.Fatal(err)
	}
	run.promise(growPromise{slot: 2, off: uint64(extent) * bitmap.ExtentBytes, n: bitmap.ExtentBytes, hot: true})
}

// set makes bits durable.
func (run *growRun) set(t *testing.T, slot int, off, n uint64) {
	t.Helper()
	run.store.Set(bitmap.SlotBit(slot), off, n)
	if err := run.store.Persist(bitmap.SlotBit(slot)); err != nil {
		t.Fatal(err)
	}
	run.promise(growPromise{slot: slot, off: off, n: n})
}

func (run *growRun) grow(t *testing.T) {
	t.Helper()
	if run.super.superblock().SizeBytes == growToBytes {
		return
	}
	conf := &Configuration{SizeBytes: growToBytes, Replicas: []Replica{{Node: "a"}, {Node: "b", Slot: 1}}, GrownApart: true}
	err := growStore(run.store, run.Region(run.file), growth{sb: run.super.superblock(), conf: conf, node: "a", write: func(l MetadataLayout) error {
		sb := run.super.superblock()
		sb.SizeBytes, sb.BitmapOffset = growToBytes, l.BitmapOffset
		return run.super.write(sb)
	}})
	if err != nil {
		t.Fatal(err)
	}
	run.promise(growPromise{slot: 1, off: growFromBytes, n: growToBytes - growFromBytes, largest: true})
}

// check opens what is left, as the next start would: whole, of the one size or the other, with all that was promised.
func (run *growRun) check(s *crash.State) error {
	meta := on(s.Image, run.file)
	super, _, err := openSuperblock(meta)
	if err != nil {
		return err
	}
	sb := super.superblock()
	if sb.SizeBytes != growFromBytes && sb.SizeBytes != growToBytes {
		return fmt.Errorf("the size is %d", sb.SizeBytes)
	}
	cfg := bitmap.Config{DeviceBytes: sb.SizeBytes, ALExtents: sb.ALExtents}
	store, recovery, err := bitmap.Open(newBitmapRegion(meta, sb.Layout()), cfg, growPeers)
	if err != nil {
		return fmt.Errorf("size %d: %w", sb.SizeBytes, err)
	}
	err = run.judge(s, sb.SizeBytes, store, recovery)
	return errors.Join(err, store.Close(false))
}

func (run *growRun) judge(s *crash.State, sizeBytes uint64, store *bitmap.Store, recovery bitmap.Recovery) error {
	if recovery.LogDamaged || recovery.DamagedDirectoryBlocks > 0 {
		return fmt.Errorf("size %d: %+v", sizeBytes, recovery)
	}
	for _, p := range run.must {
		if !s.Marked(p.mark) {
			continue
		}
		if p.largest && sizeBytes != growToBytes {
			return fmt.Errorf("%s: the size is %d again", p.mark, sizeBytes)
		}
		first, end := p.off/bitmap.BlockBytes, (p.off+p.n)/bitmap.BlockBytes
		for block := first; block < end; {
			start, count, ok := store.NextDirty(p.slot, block)
			if !ok || start > block {
				return fmt.Errorf("%s: block %d of slot %d is clean; size %d, %+v", p.mark, block, p.slot, sizeBytes, recovery)
			}
			block = start + count
		}
	}
	// What nobody touched is clean, unless its page was torn.
	if recovery.DamagedPages == 0 && store.IsDirty(5, 0, sizeBytes) {
		return errors.New("a slot that nobody used is dirty")
	}
	return nil
}

// use is a life of the replica before and after its growth.
func (run *growRun) use(t *testing.T) {
	run.set(t, 1, 5*bitmap.BlockBytes, 3*bitmap.BlockBytes)
	run.heat(t, 3)
	run.set(t, 4, 39*bitmap.ExtentBytes, bitmap.ExtentBytes)
	run.heat(t, 39)
	run.store.Set(bitmap.SlotBit(2), 3*bitmap.ExtentBytes, bitmap.BlockBytes) // only in memory: the log has it
	run.grow(t)
	run.heat(t, 38)
	run.set(t, 1, 7*bitmap.BlockBytes, bitmap.BlockBytes)
	run.heat(t, 69)
}

// TestCrashWhileGrowing loses power anywhere before, in and after the growth of a replica's metadata, also after the process was
// killed and another one had grown them: the old or the new ones are whole, and what was promised is in there.
func TestCrashWhileGrowing(t *testing.T) {
	run := newGrowRun(t)
	run.use(t)
	budget := crash.Budget{Exhaustive: 7, Random: 40, Seed: 5}
	total, err := run.Explore(budget, run.check)
	if err != nil {
		t.Fatal(err)
	}
	ops := run.Ops()
	for n := 0; n < len(ops); n++ {
		again := &growRun{Recorder: run.Resume(n), file: run.file, must: slices.Clone(run.must)}
		again.open(t)
		again.grow(t)
		again.set(t, 1, 8*bitmap.BlockBytes, bitmap.BlockBytes)
		report, err := again.Explore(crash.Budget{Exhaustive: 5, Random: 10, Seed: 6, From: n + 1}, again.check)
		if err != nil {
			t.Fatalf("killed after %d operations, then: %v", n, err)
		}
		total.Add(report)
	}
	t.Logf("explored %s", total)
	forgotten := 0
	for i := range ops {
		if ops[i].Kind != crash.Sync {
			continue
		}
		less := append(append([]crash.Op{}, ops[:i]...), ops[i+1:]...)
		if _, err := crash.Explore(run.Initial(), less, budget, run.check); err != nil {
			forgotten++
		}
	}
	if forgotten < 5 {
		t.Errorf("only %d syncs matter", forgotten)
	}
	t.Logf("%d syncs matter when they alone are forgotten", forgotten)
}
