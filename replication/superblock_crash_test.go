package replication

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"duet/bitmap"
	"duet/internal/crash"
)

// newMetadata is an empty medium with one region for metadata, and the number of it.
func newMetadata(sb *Superblock) (*crash.Image, int) {
	image := crash.NewImage()
	return image, image.AddFile(sb.Layout().TotalBytes)
}

// on is a region of an image that a crash left.
func on(image *crash.Image, file int) *crash.Region { return crash.NewRecorder(image).Region(file) }

// superblockRun updates a superblock, each time in other sectors too, and remembers all versions.
type superblockRun struct {
	*crash.Recorder
	file     int
	versions []Superblock // in the order of their sequence
}

func newSuperblockRun(t *testing.T) *superblockRun {
	t.Helper()
	sb := exampleSuperblock()
	image, file := newMetadata(&sb)
	if err := formatSuperblock(on(image, file), sb); err != nil {
		t.Fatal(err)
	}
	before := crash.NewRecorder(image)
	if err := formatSuperblock(before.Region(file), sb); err != nil {
		t.Fatal(err)
	}
	return &superblockRun{crash.NewRecorder(before.Image()), file, []Superblock{sb}}
}

// update opens the superblock, as after a restart, and changes it some times.
func (r *superblockRun) update(t *testing.T, times int) {
	t.Helper()
	store, _, err := openSuperblock(r.Region(r.file))
	if err != nil {
		t.Fatal(err)
	}
	sb := store.superblock()
	r.Mark("%d", sb.Sequence) // What was read after the sync of opening may be acted on.
	for range times {
		sb.Promised++
		sb.Peers[5] = SuperblockPeer{Name: fmt.Sprintf("peer-%d", sb.Promised), CompleteSince: sb.Promised}
		sb.setFailReason(fmt.Sprintf("reason %d", sb.Promised))
		next := sb
		next.Sequence = store.superblock().Sequence + 1
		if !slices.Contains(r.versions, next) {
			r.versions = append(r.versions, next)
		}
		if err := store.write(sb); err != nil {
			t.Fatal(err)
		}
		r.Mark("%d", next.Sequence)
	}
}

// check wants the newest version that was promised, or a later one.
func (r *superblockRun) check(s *crash.State) error {
	got, report, err := readSuperblock(on(s.Image, r.file))
	if err != nil {
		return err
	}
	durable := uint64(1)
	for _, mark := range s.Marks {
		var sequence uint64
		if n, err := fmt.Sscan(mark, &sequence); n == 1 && err == nil {
			durable = max(durable, sequence)
		}
	}
	if got.Sequence < durable || !slices.Contains(r.versions, got) {
		return fmt.Errorf("%+v: read sequence %d, promised %d; at least %d was durable", report, got.Sequence, got.Promised, durable)
	}
	return nil
}

// TestCrashOfSuperblock loses power anywhere in a run of updates, also after the process was killed and another one had
// gone on.
func TestCrashOfSuperblock(t *testing.T) {
	run := newSuperblockRun(t)
	run.update(t, 4)
	budget := crash.Budget{Exhaustive: 14, Random: 200, Seed: 1}
	total, err := run.Explore(budget, run.check)
	if err != nil {
		t.Fatal(err)
	}
	for n := range run.Ops() {
		again := &superblockRun{run.Resume(n), run.file, slices.Clone(run.versions)}
		again.update(t, 2)
		budget.From = n + 1
		report, err := again.Explore(budget, again.check)
		if err != nil {
			t.Fatalf("killed after %d operations, then: %v", n, err)
		}
		total.Add(report)
	}
	t.Logf("explored %s", total)
}

func TestCrashExplorationOfSuperblockNoticesAMissingSync(t *testing.T) {
	run := newSuperblockRun(t)
	run.update(t, 4)
	report, err := crash.Explore(run.Initial(), crash.Forget(run.Ops(), crash.Syncs(run.file)), crash.DefaultBudget(), run.check)
	if err == nil {
		t.Errorf("nothing noticed in %s", report)
	}
}

// TestCrashWhileWiping loses power while metadata are removed: they are there as they were last, or not.
func TestCrashWhileWiping(t *testing.T) {
	run := newSuperblockRun(t)
	run.update(t, 3)
	if err := wipeSuperblock(run.Region(run.file)); err != nil {
		t.Fatal(err)
	}
	run.Mark("wiped")
	report, err := run.Explore(crash.Budget{Exhaustive: 14, Random: 200, Seed: 1}, func(s *crash.State) error {
		sb, _, err := readSuperblock(on(s.Image, run.file))
		last := run.versions[len(run.versions)-1]
		switch {
		case !s.Marked(strconv.FormatUint(last.Sequence, 10)):
			return run.check(s)
		case errors.Is(err, ErrNoMetadata), unfinished(err) && !s.Marked("wiped"):
			return nil
		case err == nil && sb == last && !s.Marked("wiped"):
			return nil
		}
		return errors.Join(err, fmt.Errorf("after %v sequence %d is there", s.Marks, sb.Sequence))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("explored %s", report)
}

// unfinished tells that a region holds no replica, as opposed to one that can't be read.
func unfinished(err error) bool {
	return errors.Is(err, ErrNoMetadata) || errors.Is(err, ErrDamagedMetadata) || errors.Is(err, ErrForeignMetadata)
}

// formatting is a replica's metadata that are made where others may have been before.
type formatting struct {
	*crash.Recorder
	file     int
	old, new FormatConfig
}

// newFormatting formats, over older metadata if that is asked for.
func newFormatting(t *testing.T, overOld bool) *formatting {
	t.Helper()
	f := &formatting{new: FormatConfig{ClusterID: "c", Resource: "r0", Node: "a", ResourceID: [16]byte{2}, SizeBytes: 64 << 20, ALExtents: 16}}
	f.old = f.new
	f.old.ResourceID, f.old.SizeBytes = [16]byte{1}, 48<<20
	image := crash.NewImage()
	f.file = image.AddFile(MetadataBytes(f.new.SizeBytes, f.new.ALExtents))
	if overOld {
		before := crash.NewRecorder(image)
		if err := Format(before.Region(f.file), f.old); err != nil {
			t.Fatal(err)
		}
		f.leaveTraces(t, before.Region(f.file))
		image = before.Image()
	}
	f.Recorder = crash.NewRecorder(image)
	if err := Format(f.Region(f.file), f.new); err != nil {
		t.Fatal(err)
	}
	f.Mark("formatted")
	return f
}

// leaveTraces makes the old metadata differ from freshly formatted ones.
func (f *formatting) leaveTraces(t *testing.T, meta *crash.Region) {
	t.Helper()
	super, _, err := openSuperblock(meta)
	if err != nil {
		t.Fatal(err)
	}
	sb := super.superblock()
	store, _, err := bitmap.Open(newBitmapRegion(meta, sb.Layout()), bitmap.Config{DeviceBytes: sb.SizeBytes, ALExtents: sb.ALExtents}, 0b10)
	if err != nil {
		t.Fatal(err)
	}
	granted := make(chan error, 1)
	for extent := range uint32(8) {
		store.Acquire(extent, extent, func(err error) { granted <- err })
		if err := <-granted; err != nil {
			t.Fatal(err)
		}
		store.Set(0b10, uint64(extent)*bitmap.ExtentBytes, 5*bitmap.BlockBytes)
		store.Release(extent, extent)
	}
	sb.Promised = 99
	if err := errors.Join(store.Persist(bitmap.AllSlots), store.Close(false), super.write(sb)); err != nil {
		t.Fatal(err)
	}
}

// check wants no replica, or a whole one: the old one only as long as nothing of it was touched.
func (f *formatting) check(s *crash.State) error {
	meta := on(s.Image, f.file)
	sb, _, err := readSuperblock(meta)
	if err != nil {
		if s.Marked("formatted") || !unfinished(err) {
			return err
		}
		return nil
	}
	fresh := sb.ResourceID == f.new.ResourceID
	if !fresh && (s.Marked("formatted") || f.wiped(s)) {
		return fmt.Errorf("the old replica is back: promised %d", sb.Promised)
	}
	store, recovery, err := bitmap.Open(newBitmapRegion(meta, sb.Layout()), bitmap.Config{DeviceBytes: sb.SizeBytes, ALExtents: sb.ALExtents}, 0b10)
	if err != nil {
		return fmt.Errorf("the superblock is there, the rest is not: %w", err)
	}
	dirty := store.DirtyBlocks(1)
	if fresh && (dirty != 0 || !recovery.Clean) || !fresh && dirty == 0 {
		err = fmt.Errorf("a mixture: %d dirty blocks, %+v", dirty, recovery)
	}
	return errors.Join(err, store.Close(false))
}

// wiped tells whether the second sync of the formatting, which makes the wiping durable, has returned.
func (f *formatting) wiped(s *crash.State) bool {
	syncs := 0
	for _, op := range f.Ops()[:s.After] {
		if op.Kind == crash.Sync {
			syncs++
		}
	}
	return syncs > 1
}

func TestCrashWhileFormatting(t *testing.T) {
	for _, overOld := range []bool{false, true} {
		f := newFormatting(t, overOld)
		report, err := f.Explore(crash.Budget{Exhaustive: 10, Random: 40, Seed: 2}, f.check)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("over old metadata %v: explored %s", overOld, report)
	}
}

// TestCrashExplorationOfFormattingNoticesMissingSyncs forgets the syncs of the wiping, of the bitmaps (either of the two
// would do here), and of the superblock.
func TestCrashExplorationOfFormattingNoticesMissingSyncs(t *testing.T) {
	f := newFormatting(t, true)
	for _, missing := range [][]int{{1}, {2, 3}, {4}} {
		at := -1
		ops := crash.Forget(f.Ops(), func(op crash.Op) bool {
			if op.Kind == crash.Sync {
				at++
			}
			return op.Kind == crash.Sync && slices.Contains(missing, at)
		})
		report, err := crash.Explore(f.Initial(), ops, crash.Budget{Exhaustive: 10, Random: 100, Seed: 2}, f.check)
		if err == nil || at != 4 {
			t.Errorf("syncs %v of %d forgotten, and nothing noticed in %s", missing, at+1, report)
		}
	}
}
