package device

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadNowaitAt(t *testing.T) {
	_, d, err := Create(filepath.Join(t.TempDir(), "disk"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	want := bytes.Repeat([]byte{7}, 8192)
	if _, err := d.WriteAt(want, 4096); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if n, err := d.ReadNowaitAt(got, 4096); err != nil || n != len(got) || !bytes.Equal(got, want) {
		t.Errorf("just written: %d bytes, %v", n, err)
	}
	if _, err := d.ReadNowaitAt(got, 1<<20-4096); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("beyond the end: %v", err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	// What the kernel has dropped is not waited for.
	if err := d.control(func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) }); err != nil {
		t.Fatal(err)
	}
	if n, err := d.ReadNowaitAt(got, 4096); err == nil && !bytes.Equal(got, want) || err != nil && !errors.Is(err, ErrWouldBlock) {
		t.Errorf("dropped from memory: %d bytes, %v", n, err)
	}
	if _, err := d.ReadAt(got, 4096); err != nil { // now it is in memory again
		t.Fatal(err)
	}
	d.noNowaitRead.Store(true)
	if _, err := d.ReadNowaitAt(got, 4096); !errors.Is(err, ErrWouldBlock) {
		t.Errorf("on a disk that can't tell: %v", err)
	}
}

// TestReadNowaitHole: what was never written is not on the disk, and reads as zeroes or has to be asked for.
func TestReadNowaitHole(t *testing.T) {
	d, _ := newFile(t, 1<<20)
	got := bytes.Repeat([]byte{0xff}, 64<<10)
	switch _, err := d.ReadNowaitAt(got, 512<<10); {
	case err == nil && !zero(got):
		t.Error("a hole is not zeroes")
	case err != nil && !errors.Is(err, ErrWouldBlock):
		t.Errorf("a hole: %v", err)
	}
	if _, err := d.ReadAt(got, 512<<10); err != nil || !zero(got) {
		t.Fatalf("a hole, waiting: %v", err)
	}
	got[0] = 0xff
	if n, err := d.ReadNowaitAt(got, 512<<10); err != nil || n != len(got) || !zero(got) {
		t.Errorf("a hole that was read: %d bytes, %v", n, err)
	}
}

func TestReadNowaitRange(t *testing.T) {
	d, _ := newFile(t, 8192)
	p := make([]byte, 4096)
	for _, off := range []int64{-1, 4097, 8192, 1 << 62} {
		if _, err := d.ReadNowaitAt(p, off); !errors.Is(err, ErrOutOfRange) {
			t.Errorf("at %d: %v", off, err)
		}
	}
	if n, err := d.ReadNowaitAt(nil, 8192); n != 0 || err != nil {
		t.Errorf("nothing, at the end: %d, %v", n, err)
	}
	if err := d.file.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadNowaitAt(p, 4096); !errors.Is(err, ErrWouldBlock) {
		t.Errorf("beyond the end of a disk that shrank: %v", err) // ReadAt tells the rest
	}
}

func TestReadNowaitVerdict(t *testing.T) {
	for _, c := range []struct {
		n    int
		err  error
		want error
	}{
		{4096, nil, nil}, {4095, nil, ErrWouldBlock}, {0, nil, ErrWouldBlock},
		{0, unix.EAGAIN, ErrWouldBlock}, {0, unix.EINTR, ErrWouldBlock},
		{0, unix.EOPNOTSUPP, errNoNowait}, {0, unix.ENOSYS, errNoNowait},
		{0, unix.EIO, unix.EIO}, {0, unix.EBADF, unix.EBADF},
	} {
		if got := verdict(c.n, 4096, c.err); !errors.Is(got, c.want) {
			t.Errorf("%d bytes, %v: %v, want %v", c.n, c.err, got, c.want)
		}
	}
}

// TestReadNowaitUnsupported reads a file whose filesystem knows no RWF_NOWAIT. After the first answer it isn't asked.
func TestReadNowaitUnsupported(t *testing.T) {
	file, err := os.Open("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDevice(file.Name(), file, false)
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, d)
	d.boundBytes.Store(1 << 20)
	p := make([]byte, 4096)
	for range 2 {
		if _, err := d.ReadNowaitAt(p, 0); !errors.Is(err, ErrWouldBlock) {
			t.Errorf("%v", err)
		}
		if !d.noNowaitRead.Load() {
			t.Error("was not remembered")
		}
	}
}

func TestReadNowaitAllocatesNothing(t *testing.T) {
	_, d, err := Create(filepath.Join(t.TempDir(), "disk"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	p := make([]byte, 4096)
	if _, err := d.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	allocations := testing.AllocsPerRun(100, func() {
		if _, err := d.ReadNowaitAt(p, 0); err != nil {
			t.Fatal(err)
		}
	})
	if allocations > 0.5 {
		t.Errorf("%v allocations per read", allocations)
	}
	if err := d.file.Truncate(0); err != nil {
		t.Fatal(err)
	}
	allocations = testing.AllocsPerRun(100, func() {
		if _, err := d.ReadNowaitAt(p, 0); !errors.Is(err, ErrWouldBlock) {
			t.Fatal(err)
		}
	})
	if allocations > 0.5 {
		t.Errorf("%v allocations per read that would block", allocations)
	}
}
