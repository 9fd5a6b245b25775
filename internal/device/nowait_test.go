package device

import (
	"bytes"
	"errors"
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
	d.noNowaitRead.Store(true)
	if _, err := d.ReadNowaitAt(got, 4096); !errors.Is(err, ErrWouldBlock) {
		t.Errorf("on a disk that can't tell: %v", err)
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
}
