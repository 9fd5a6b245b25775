package replication

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"duet/bitmap"
	"duet/internal/crash"
)

// undoRegion is an undo file on a medium that records what a crash can leave.
type undoRegion struct {
	*crash.Region
	free  uint64
	fault func(operation string) error
}

func (u *undoRegion) failing(operation string) error {
	if u.fault == nil {
		return nil
	}
	return u.fault(operation)
}

func (u *undoRegion) WriteAt(p []byte, off int64) (int, error) {
	if err := u.failing("write"); err != nil {
		return 0, err
	}
	return u.Region.WriteAt(p, off)
}

func (u *undoRegion) Sync() error {
	if err := u.failing("sync"); err != nil {
		return err
	}
	return u.Region.Sync()
}

func (u *undoRegion) Truncate(int64) error       { return nil } // the medium is of one size; what is cut off is overwritten
func (u *undoRegion) Size() (int64, error)       { return u.Region.Size(), nil }
func (u *undoRegion) FreeBytes() (uint64, error) { return u.free, nil }

const undoTestBlocks = 24

func undoTestHeader() *undoHeader {
	return &undoHeader{UndoIdentity: UndoIdentity{ClusterID: "c1", Resource: "r0", Node: "a", ResourceID: [16]byte{1, 2, 3},
		SizeBytes: undoTestBlocks * bitmap.BlockBytes, ForkAt: 5, DiscardAt: 7}, Created: time.Unix(1_700_000_000, 0)}
}

// undoRun overwrites a disk whose content is saved, and remembers what it was.
type undoRun struct {
	*crash.Recorder
	file   int
	former *memoryDisk // as it was
	disk   *memoryDisk // as it is now
}

func newUndoRun(t *testing.T) *undoRun {
	t.Helper()
	image := crash.NewImage()
	file := image.AddFile(undoOffset(2 * undoTestBlocks))
	run := &undoRun{crash.NewRecorder(image), file, newMemoryDisk(undoTestBlocks * bitmap.BlockBytes), newMemoryDisk(undoTestBlocks * bitmap.BlockBytes)}
	random := rand.New(rand.NewPCG(3, 4))
	for i := range run.former.p {
		run.former.p[i] = byte(random.Uint32())
	}
	clear(run.former.p[3*bitmap.BlockBytes : 5*bitmap.BlockBytes])
	copy(run.disk.p, run.former.p)
	return run
}

func newMemoryDisk(size int) *memoryDisk { return &memoryDisk{p: make([]byte, size)} }

func (r *undoRun) region() *undoRegion { return &undoRegion{Region: r.Region(r.file), free: 1 << 30} }

// overwrite writes to the disk what is saved before.
func (r *undoRun) overwrite(t *testing.T, u *undoStore, off int, p []byte) {
	t.Helper()
	if err := u.save(r.disk, uint64(off), uint64(len(p)), p); err != nil {
		t.Fatal(err)
	}
	copy(r.disk.p[off:], p)
	r.Mark("%d %d", off, len(p))
}

// work begins an undo file and overwrites all kinds of ranges.
func (r *undoRun) work(t *testing.T, u *undoStore, seed uint64, times int) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	for range times {
		n := 512 * (1 + random.IntN(24))
		off := 512 * random.IntN((len(r.disk.p)-n)/512)
		r.overwrite(t, u, off, randomBytes(n))
	}
}

// check opens what a crash left: whatever was overwritten by then can be put back.
func (r *undoRun) check(s *crash.State) error {
	image := crash.NewRecorder(s.Image).Region(r.file)
	overwritten := map[uint64]bool{}
	for _, mark := range s.Marks {
		var off, n uint64
		if _, err := fmt.Sscan(mark, &off, &n); err == nil {
			for block := off / bitmap.BlockBytes; block <= (off+n-1)/bitmap.BlockBytes; block++ {
				overwritten[block] = true
			}
		}
	}
	if !s.Marked("begun") {
		return nil
	}
	u, err := openUndo(&undoRegion{Region: image, free: 1 << 30}, &undoTestHeader().UndoIdentity)
	if err != nil {
		return err
	}
	_, err = ReadUndo(image, func(offset uint64, content []byte) error {
		delete(overwritten, offset/bitmap.BlockBytes)
		if !bytes.Equal(content, r.former.p[offset:][:bitmap.BlockBytes]) {
			return fmt.Errorf("the block at %d is not as it was", offset)
		}
		return nil
	})
	if err != nil || len(overwritten) > 0 {
		return errors.Join(err, fmt.Errorf("%d records; overwritten and not saved: %v", u.records(), overwritten))
	}
	return nil
}

func (r *undoRun) begin(t *testing.T) *undoStore {
	t.Helper()
	u, err := createUndo(r.region(), undoTestHeader())
	if err != nil {
		t.Fatal(err)
	}
	r.Mark("begun")
	return u
}

// Power is lost anywhere while blocks are overwritten, also after the process was killed and another went on: each block that may
// have been overwritten is in the undo file as it was.
func TestCrashOfUndo(t *testing.T) {
	run := newUndoRun(t)
	run.work(t, run.begin(t), 1, 6)
	total, err := run.Explore(crash.DefaultBudget(), run.check)
	if err != nil {
		t.Fatal(err)
	}
	for n := 2; n <= len(run.Ops()); n++ {
		again := &undoRun{run.Resume(n), run.file, run.former, newMemoryDisk(len(run.disk.p))}
		copy(again.disk.p, run.disk.p) // the overwriting may have gone further than what is known to be saved
		u, err := openUndo(again.region(), &undoTestHeader().UndoIdentity)
		if err != nil {
			t.Fatal(err)
		}
		// What is not saved was not overwritten.
		for block := range uint64(undoTestBlocks) {
			if !u.saved.has(block) {
				copy(again.disk.p[block*bitmap.BlockBytes:], again.former.p[block*bitmap.BlockBytes:][:bitmap.BlockBytes])
			}
		}
		again.work(t, u, uint64(n), 2)
		budget := crash.Budget{Exhaustive: 6, Random: 16, Seed: 1, From: n + 1}
		report, err := again.Explore(budget, again.check)
		if err != nil {
			t.Fatalf("killed after %d operations, then: %v", n, err)
		}
		total.Add(report)
	}
	t.Logf("explored %s", total)
}

func TestCrashExplorationOfUndoNoticesAMissingSync(t *testing.T) {
	run := newUndoRun(t)
	run.work(t, run.begin(t), 1, 6)
	report, err := crash.Explore(run.Initial(), crash.Forget(run.Ops(), crash.Syncs(run.file)), crash.DefaultBudget(), run.check)
	if err == nil {
		t.Errorf("nothing noticed in %s", report)
	}
}

// Many requests at once save each block once, and each waits until its own blocks are durable.
func TestUndoInParallel(t *testing.T) {
	run := newUndoRun(t)
	u := run.begin(t)
	var writers sync.WaitGroup
	for writer := range 8 {
		writers.Go(func() {
			for i := range 40 {
				off := 512 * ((writer + 8*i) % (undoTestBlocks * 8)) // neighbours in one block belong to different writers
				p := bytes.Repeat([]byte{byte(writer + 1)}, 512)
				if err := u.save(run.former, uint64(off), 512, p); err != nil {
					t.Error(err)
				}
				if done, err := u.synced(1); !done || err != nil {
					t.Errorf("overwritten before a record was durable (%v)", err)
				}
			}
		})
	}
	writers.Wait()
	seen := map[uint64]int{}
	if _, err := ReadUndo(run.region(), func(offset uint64, _ []byte) error { seen[offset]++; return nil }); err != nil {
		t.Fatal(err)
	}
	for offset, times := range seen {
		if times != 1 {
			t.Errorf("the block at %d is saved %d times", offset, times)
		}
	}
	if len(seen) != undoTestBlocks {
		t.Errorf("%d blocks are saved, of %d", len(seen), undoTestBlocks)
	}
}

// What stays as it is needs no room.
func TestUndoSavesWhatDiffers(t *testing.T) {
	run := newUndoRun(t)
	u := run.begin(t)
	const block = bitmap.BlockBytes
	tests := []struct {
		name     string
		off, n   uint64
		incoming []byte
		want     uint64 // records afterwards
	}{
		{"the same bytes", block, 2 * block, run.former.p[block:][:2*block], 0},
		{"zeroes over zeroes", 3 * block, 2 * block, nil, 0},
		{"part of a block, the same", block + 512, 512, run.former.p[block+512:][:512], 0},
		{"part of a block", block + 512, 512, make([]byte, 512), 1},
		{"one of three differs", 2 * block, 3 * block, append(randomBytes(block), make([]byte, 2*block)...), 2},
		{"again", 2 * block, block, randomBytes(block), 2},
		{"zeroes", 0, 6 * block, nil, 4},
	}
	for _, tt := range tests {
		if err := u.save(run.disk, tt.off, tt.n, tt.incoming); err != nil || u.records() != tt.want {
			t.Errorf("%s: %d records, want %d (%v)", tt.name, u.records(), tt.want, err)
		}
	}
}

// A write or a sync that fails lets nothing be overwritten any more.
func TestUndoFails(t *testing.T) {
	for _, operation := range []string{"write", "sync"} {
		run := newUndoRun(t)
		region := run.region()
		u, err := createUndo(region, undoTestHeader())
		if err != nil {
			t.Fatal(err)
		}
		broken := true
		region.fault = func(what string) error {
			if broken && what == operation {
				return errors.New("no space left")
			}
			return nil
		}
		first := u.save(run.disk, 0, 4096, randomBytes(4096))
		broken = false
		if again := u.save(run.disk, 8192, 4096, randomBytes(4096)); first == nil || again == nil || u.failed() == nil {
			t.Errorf("%s: %v, then %v", operation, first, again)
		}
	}
	u := newUndoRun(t).begin(t)
	if err := u.room(1 << 30); err == nil {
		t.Error("there is room for anything")
	}
	if err := errors.Join(u.end(false), u.save(newMemoryDisk(8192), 0, 4096, nil)); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed file saves: %v", err)
	}
}

// A record that was durable and is damaged is never taken for the end of the file; one that a crash can have torn is.
func TestDamagedUndo(t *testing.T) {
	run := newUndoRun(t)
	u := run.begin(t)
	for block := range 4 {
		run.overwrite(t, u, block*bitmap.BlockBytes, randomBytes(bitmap.BlockBytes))
	}
	clear(run.former.p)
	for number := uint64(1); number <= 4; number++ {
		image := run.Image()
		image.Content(run.file).Flip(undoOffset(number)+100, 3)
		region := &undoRegion{Region: crash.NewRecorder(image).Region(run.file), free: 1 << 30}
		got, err := openUndo(region, &undoTestHeader().UndoIdentity)
		if last := number == 4; last && (err != nil || got.records() != 3) || !last && !errors.Is(err, ErrUndoFile) {
			t.Errorf("record %d damaged: %v", number, err)
		}
	}
	other := undoTestHeader().UndoIdentity
	other.DiscardAt++
	if _, err := openUndo(run.region(), &other); err == nil {
		t.Error("the undo file of another decision is taken")
	}
}

func TestUndoGolden(t *testing.T) {
	file := undoTestHeader().encode()
	content := bytes.Repeat([]byte("former content. "), bitmap.BlockBytes/16)
	record := make([]byte, undoRecordBytes)
	(&undoRecord{Number: 1, Block: 7, Durable: 0, Content: content}).encode(record)
	dump := dumpBytes(append(file, record[:undoHeadBytes+16]...))
	compareGolden(t, "undo.golden", []byte(dump))
	back, err := decodeUndoHeader(parseDump(t, dump, undoHeaderBytes+undoHeadBytes+16)[:undoHeaderBytes])
	if err != nil || back.UndoIdentity != undoTestHeader().UndoIdentity || !back.Created.Equal(undoTestHeader().Created) {
		t.Errorf("%+v, %v", back, err)
	}
	if r, ok := decodeUndoRecord(record, 1, 8); !ok || r.Block != 7 || !bytes.Equal(r.Content, content) {
		t.Errorf("%+v", r)
	}
}

// Whatever is in a file, reading it ends, and no block is outside of the device.
func FuzzUndo(f *testing.F) {
	record := make([]byte, undoRecordBytes)
	(&undoRecord{Number: 1, Block: 7, Content: make([]byte, bitmap.BlockBytes)}).encode(record)
	f.Add(append(undoTestHeader().encode(), record...))
	f.Add([]byte(undoMagic))
	f.Fuzz(func(t *testing.T, p []byte) {
		content, err := ReadUndo(bytes.NewReader(p), func(offset uint64, content []byte) error {
			if offset >= bitmap.MaxDeviceBytes || len(content) != bitmap.BlockBytes {
				t.Errorf("block at %d of %d bytes", offset, len(content))
			}
			return nil
		})
		if err == nil && content.SizeBytes%bitmap.BlockBytes != 0 {
			t.Errorf("%+v", content)
		}
		if _, err := readUndoHeader(bytes.NewReader(p)); err != nil && !errors.Is(err, ErrUndoFile) && !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
	})
}
