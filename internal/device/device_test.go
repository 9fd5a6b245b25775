package device

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// newFile makes a sparse disk of sizeBytes in a temporary directory.
func newFile(t *testing.T, sizeBytes int64) (*Device, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	created, d, err := Create(path, sizeBytes)
	if err != nil || !created {
		t.Fatalf("Create: created %v, %v", created, err)
	}
	t.Cleanup(func() { closeIt(t, d) })
	return d, path
}

func closeIt(t *testing.T, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func wantError(t *testing.T, err, is error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("error %q is not %q", err, is)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	directory := t.TempDir()
	_, err := Open(directory)
	wantError(t, err, nil, directory, "is a directory")
	_, err = Open(filepath.Join(directory, "absent"))
	wantError(t, err, fs.ErrNotExist, "absent")
	_, err = Open("/dev/null")
	wantError(t, err, nil, "/dev/null", "neither a regular file nor a block device")
}

func TestOpenIsExclusive(t *testing.T) {
	d, path := newFile(t, 1<<20)
	_, err := Open(path)
	wantError(t, err, ErrInUse, path, "in use", "stop that process")

	link := path + ".link"
	if err := os.Link(path, link); err != nil {
		t.Fatal(err)
	}
	_, err = Open(link)
	wantError(t, err, ErrInUse, link)

	closeIt(t, d)
	again, err := Open(path)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	closeIt(t, again)
}

// A disk that is looked at can't be changed, and can't be taken by a daemon meanwhile; one that a daemon has can't be looked at.
func TestOpenReadOnly(t *testing.T) {
	d, path := newFile(t, 1<<20)
	if _, err := d.WriteAt([]byte("hello"), 4096); err != nil {
		t.Fatal(err)
	}
	if err := d.SetTag(7); err != nil && !errors.Is(err, ErrNoTag) {
		t.Fatal(err)
	}
	tag, tagErr := d.Tag()
	_, err := OpenReadOnly(path)
	wantError(t, err, ErrInUse, path)
	_, err = OpenRegionFileReadOnly(path)
	wantError(t, err, ErrInUse, "metadata", path)
	closeIt(t, d)

	viewed, err := OpenReadOnly(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenRegionFileReadOnly(path)
	if err != nil {
		t.Fatalf("two that look: %v", err)
	}
	got := make([]byte, 5)
	if _, err := again.ReadAt(got, 4096); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if same, err := viewed.Tag(); same != tag || (err == nil) != (tagErr == nil) {
		t.Errorf("tag %d, %v, want %d", same, err, tag)
	}
	if _, err := viewed.WriteAt(got, 0); err == nil {
		t.Error("a write was possible")
	}
	_, err = Open(path)
	wantError(t, err, ErrInUse, path)
	closeIt(t, viewed)
	closeIt(t, again)

	_, err = OpenReadOnly(filepath.Join(t.TempDir(), "absent"))
	wantError(t, err, fs.ErrNotExist, "absent")
	_, err = OpenReadOnly("/dev/null")
	wantError(t, err, nil, "neither a regular file nor a block device")
}

func TestCreate(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "disk")
	if err := os.WriteFile(path, []byte("what was there"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := Create(path, 4096)
	wantError(t, err, ErrTooSmall, "14 bytes", "4096 are needed")
	_, _, err = Create(path, 0)
	wantError(t, err, nil, "not positive")
	_, _, err = Create(filepath.Join(directory, "no", "such"), 4096)
	wantError(t, err, fs.ErrNotExist, "cannot create a file in")

	created, d, err := Create(path, 10)
	if err != nil || created {
		t.Fatalf("existing file: created %v, %v", created, err)
	}
	got := make([]byte, 14)
	if _, err := d.ReadAt(got, 0); err != nil || string(got) != "what was there" {
		t.Errorf("content is %q, %v", got, err)
	}
	closeIt(t, d)
	if entries, err := os.ReadDir(directory); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestCreateIsSparse(t *testing.T) {
	_, path := newFile(t, 4<<30)
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	if stat.Blocks*512 > 1<<20 {
		t.Errorf("a new 4 GiB disk takes %d bytes", stat.Blocks*512)
	}
	if stat.Mode&0o077 != 0 {
		t.Errorf("mode %o lets others in", stat.Mode)
	}
}

// TestCreateRace has many creators of one path: one makes it, the others find
// it in use; nobody's file is replaced and nothing is left behind.
func TestCreateRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	const creators = 16
	results := make([]error, creators)
	made := make([]*Device, creators)
	var all sync.WaitGroup
	for i := range creators {
		all.Go(func() { _, made[i], results[i] = Create(path, 1<<20) })
	}
	all.Wait()
	winners := 0
	for i, err := range results {
		if err == nil {
			winners++
			closeIt(t, made[i])
		} else if !errors.Is(err, ErrInUse) {
			t.Errorf("creator %d: %v", i, err)
		}
	}
	if winners != 1 {
		t.Errorf("%d creators won", winners)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestRangesAreChecked(t *testing.T) {
	d, path := newFile(t, 8192)
	page := make([]byte, 4096)
	emit := func(int64, bool) error { t.Error("emit called"); return nil }
	const most = int64(^uint64(0) >> 1)
	for _, off := range []int64{-1, 4097, 8192, most - 100, most} {
		_, readErr := d.ReadAt(page, off)
		_, writeErr := d.WriteAt(page, off)
		_, durableErr := d.WriteDurableAt(page, off)
		for _, err := range []error{readErr, writeErr, durableErr, d.Punch(off, 4096), d.Zero(off, 4096), d.Extents(off, 4096, emit)} {
			wantError(t, err, ErrOutOfRange, path, "4096 bytes", "size 8192")
		}
	}
	wantError(t, d.Punch(0, -1), ErrOutOfRange)
	if _, err := d.WriteAt(nil, 8192); err != nil {
		t.Errorf("empty write at the end: %v", err)
	}
}

func TestReadBackAfterDurableWrite(t *testing.T) {
	for _, fallback := range []bool{false, true} {
		d, _ := newFile(t, 1<<20)
		d.noDurableWrite.Store(fallback)
		want := bytes.Repeat([]byte("duet"), 3000)
		if n, err := d.WriteDurableAt(want, 77); err != nil || n != len(want) {
			t.Fatalf("fallback %v: %d, %v", fallback, n, err)
		}
		got := make([]byte, len(want))
		if _, err := d.ReadAt(got, 77); err != nil || !bytes.Equal(got, want) {
			t.Errorf("fallback %v: content differs, %v", fallback, err)
		}
		if err := d.Sync(); err != nil {
			t.Errorf("Sync: %v", err)
		}
	}
}

func TestDurableWriteDoesNotAllocate(t *testing.T) {
	d, _ := newFile(t, 1<<20)
	page := make([]byte, 4096)
	perWrite := testing.AllocsPerRun(20, func() {
		if _, err := d.WriteDurableAt(page, 4096); err != nil {
			t.Error(err)
		}
	})
	// The pool may be emptied by a collection in between, hence not zero.
	if perWrite >= 1 {
		t.Errorf("%v allocations per write", perWrite)
	}
}

// TestShrunkFile is about a file cut short behind our back: reads say so, and
// once the caller asked for the size, writes don't grow it again.
func TestShrunkFile(t *testing.T) {
	d, path := newFile(t, 16384)
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	_, err := d.ReadAt(make([]byte, 4096), 8192)
	wantError(t, err, ErrShrunk, path)
	if got := d.SizeBytes(); got != 4096 {
		t.Errorf("size %d, want 4096", got)
	}
	_, err = d.WriteAt(make([]byte, 4096), 8192)
	wantError(t, err, ErrOutOfRange)
	if info, err := os.Stat(path); err != nil || info.Size() != 4096 {
		t.Errorf("the file was grown again: %v, %v", info, err)
	}
}

func TestClose(t *testing.T) {
	d, _ := newFile(t, 8192)
	closeIt(t, d)
	closeIt(t, d)
	page := make([]byte, 4096)
	if got := d.SizeBytes(); got != 0 {
		t.Errorf("a closed disk has size %d", got)
	}
	d.boundBytes.Store(8192)
	_, readErr := d.ReadAt(page, 0)
	_, durableErr := d.WriteDurableAt(page, 0)
	for _, err := range []error{readErr, durableErr, d.Sync(), d.Punch(0, 4096), d.SetTag(1)} {
		wantError(t, err, nil)
	}
}

// checkZeroing compares operation with a plain model, for ranges with every
// kind of alignment.
func checkZeroing(t *testing.T, d *Device, operation func(off, n int64) error) {
	t.Helper()
	sizeBytes := d.SizeBytes()
	random := rand.New(rand.NewPCG(1, 2))
	model := make([]byte, sizeBytes)
	got := make([]byte, sizeBytes)
	for round := range 60 {
		for i := range model {
			model[i] = byte(round + i%251 + 1)
		}
		if _, err := d.WriteAt(model, 0); err != nil {
			t.Fatal(err)
		}
		off, n := random.Int64N(sizeBytes), int64(0)
		switch n = random.Int64N(sizeBytes - off + 1); round % 4 {
		case 0: // aligned
			off, n = off&^4095, n&^4095
		case 1: // within one sector
			n = min(n, 100)
		case 2: // up to the end
			n = sizeBytes - off
		}
		if err := operation(off, n); err != nil {
			t.Fatalf("%d bytes at %d: %v", n, off, err)
		}
		clear(model[off : off+n])
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, model) {
			t.Fatalf("%d bytes at %d: content differs from the model, %v", n, off, err)
		}
	}
	if now := d.SizeBytes(); now != sizeBytes {
		t.Errorf("the size became %d", now)
	}
}

func TestZeroingIsExact(t *testing.T) {
	missing := map[string]func(d *Device){
		"everything there":    func(*Device) {},
		"no punch":            func(d *Device) { d.noPunch.Store(true) },
		"no zero range":       func(d *Device) { d.noZeroRange.Store(true) },
		"only writing zeroes": func(d *Device) { d.noPunch.Store(true); d.noZeroRange.Store(true) },
	}
	for name, lose := range missing {
		t.Run(name, func(t *testing.T) {
			d, _ := newFile(t, 300_001)
			lose(d)
			checkZeroing(t, d, d.Punch)
			checkZeroing(t, d, d.Zero)
		})
	}
}

func allocatedBytes(t *testing.T, path string) int64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Blocks * 512
}

// TestPunchFreesZeroKeeps runs where the filesystem can punch at all, which the
// capability flags tell afterwards.
func TestPunchFreesZeroKeeps(t *testing.T) {
	d, path := newFile(t, 4<<20)
	if _, err := d.WriteAt(bytes.Repeat([]byte{1}, 4<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	full := allocatedBytes(t, path)
	if err := d.Zero(1<<20, 1<<20); err != nil {
		t.Fatal(err)
	}
	if got := allocatedBytes(t, path); got < full {
		t.Errorf("Zero freed space: %d of %d bytes left", got, full)
	}
	if err := d.Punch(1<<20, 2<<20); err != nil {
		t.Fatal(err)
	}
	if got := allocatedBytes(t, path); !d.noPunch.Load() && got > full-1<<20 {
		t.Errorf("Punch freed too little: %d of %d bytes left", got, full)
	}
}

// run is one extent as emitted.
type run struct {
	n    int64
	hole bool
}

func extentsOf(t *testing.T, d *Device, off, n int64) []run {
	t.Helper()
	var runs []run
	err := d.Extents(off, n, func(n int64, hole bool) error {
		runs = append(runs, run{n, hole})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

func TestExtents(t *testing.T) {
	const mib = 1 << 20
	d, _ := newFile(t, 16*mib)
	if _, err := d.WriteAt(bytes.Repeat([]byte{1}, mib), 4*mib); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		off, n int64
		want   []run
	}{
		{"whole", 0, 16 * mib, []run{{4 * mib, true}, {mib, false}, {11 * mib, true}}},
		{"inside the data", 4*mib + 5, 100, []run{{100, false}}},
		{"across its end", 5*mib - 10, 20, []run{{10, false}, {10, true}}},
		{"only hole", 6 * mib, mib, []run{{mib, true}}},
		{"nothing", 6 * mib, 0, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := extentsOf(t, d, c.off, c.n)
			if len(got) != len(c.want) {
				t.Fatalf("got %v, want %v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("got %v, want %v", got, c.want)
				}
			}
		})
	}
	stop := errors.New("enough")
	if err := d.Extents(0, 16*mib, func(int64, bool) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the error of emit became %v", err)
	}
}

func TestDataRun(t *testing.T) {
	for _, c := range []struct{ off, next, end, want int64 }{
		{100, 300, 1000, 200}, {100, 3000, 1000, 900}, {8192, 8192, 1 << 20, 4096}, {8192, 0, 1 << 20, 4096}, {8192, 8192, 8200, 8},
	} {
		if got := dataRun(c.off, c.next, c.end); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// TestFlaggedWriteGoesOn is about system calls that are interrupted, write a part,
// write nothing, or fail half-way.
func TestFlaggedWriteGoesOn(t *testing.T) {
	const fd, off = 5, 1000
	want := []byte("something to write")
	cases := []struct {
		name  string
		steps []any // how many bytes a call writes, or how it fails
		n     int
		err   error
	}{
		{"at once", []any{18}, 18, nil},
		{"in parts, interrupted", []any{5, unix.EINTR, 1, unix.EINTR, unix.EINTR, 12}, 18, nil},
		{"nothing", []any{5, 0}, 5, io.ErrShortWrite},
		{"full", []any{7, unix.ENOSPC}, 7, unix.ENOSPC},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := make([]byte, 0, len(want))
			w := &flaggedWrite{rest: want, off: off}
			w.call = func(_ uintptr, p []byte, at int64, _ uintptr) (int, error) {
				if len(c.steps) == 0 || at != off+int64(len(got)) {
					t.Fatalf("call at %d after %d bytes", at, len(got))
				}
				step := c.steps[0]
				c.steps = c.steps[1:]
				if err, failed := step.(error); failed {
					return 0, err
				}
				got = append(got, p[:step.(int)]...)
				return step.(int), nil
			}
			w.write(fd)
			if w.n != c.n || !errors.Is(w.err, c.err) || !bytes.Equal(got, want[:c.n]) || len(c.steps) > 0 {
				t.Errorf("%d bytes (%q), %v", w.n, got, w.err)
			}
		})
	}
}

// TestExtentsConcurrently walks two disjoint parts again and again while a
// third party reads and writes; each walk must see just its own part.
func TestExtentsConcurrently(t *testing.T) {
	const mib = 1 << 20
	d, _ := newFile(t, 64*mib)
	for i := int64(0); i < 64; i += 2 {
		if _, err := d.WriteAt(bytes.Repeat([]byte{1}, mib), i*mib); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for _, first := range []int64{0, 32} {
		all.Go(func() {
			for range 200 {
				if runs := extentsOf(t, d, first*mib, 32*mib); len(runs) != 32 {
					t.Errorf("saw %d runs", len(runs))
				}
			}
		})
	}
	all.Go(func() {
		page := make([]byte, 4096)
		for i := range int64(200) {
			if _, err := d.WriteAt(page, i%2*8192); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
}

// TestExtentsProgress has the file changed all the time: the runs must cover
// the range exactly nevertheless.
func TestExtentsProgress(t *testing.T) {
	const sizeBytes = 1 << 20
	d, _ := newFile(t, sizeBytes)
	done := make(chan struct{})
	var other sync.WaitGroup
	other.Go(func() {
		page := bytes.Repeat([]byte{1}, 4096)
		for i := int64(0); ; i = (i + 4096) % sizeBytes {
			select {
			case <-done:
				return
			default:
			}
			_, err := d.WriteAt(page, i)
			if err := errors.Join(err, d.Punch((i+sizeBytes/2)%sizeBytes, 4096)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 300 {
		covered := int64(0)
		for _, r := range extentsOf(t, d, 0, sizeBytes) {
			if r.n <= 0 {
				t.Errorf("run of %d bytes", r.n)
			}
			covered += r.n
		}
		if covered != sizeBytes {
			t.Errorf("covered %d bytes", covered)
		}
	}
	close(done)
	other.Wait()
}

func TestTag(t *testing.T) {
	d, path := newFile(t, 8192)
	got, err := d.Tag()
	if errors.Is(err, ErrNoTag) {
		wantError(t, d.SetTag(1), ErrNoTag)
		t.Skip("the temporary directory's filesystem has no user extended attributes")
	}
	if err != nil || got != 0 {
		t.Fatalf("new file: tag %d, %v", got, err)
	}
	for _, want := range []uint64{1, 42, ^uint64(0)} {
		if err := d.SetTag(want); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Tag(); err != nil || got != want {
			t.Errorf("tag %d, %v, want %d", got, err, want)
		}
	}
	for _, bad := range []string{"x", "", "-1", "18446744073709551616", strings.Repeat("1", 200)} {
		if err := unix.Setxattr(path, tagAttribute, []byte(bad), 0); err != nil {
			t.Fatal(err)
		}
		_, err := d.Tag()
		wantError(t, err, nil, path, tagAttribute, "not a number")
	}
}
