package device

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestRegionFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta")
	r, err := CreateRegionFile(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if r.Size() != 1<<20 || r.Path() != path {
		t.Errorf("size %d, path %s", r.Size(), r.Path())
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	_, err = OpenRegionFile(path)
	wantError(t, err, ErrInUse, "metadata", path)
	if _, err := r.WriteAt([]byte("hello"), 1<<20-5); err != nil {
		t.Fatal(err)
	}
	if _, err := r.WriteDurableAt([]byte("first"), 0); err != nil {
		t.Fatal(err)
	}
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	_, err = r.WriteAt([]byte("hello"), 1<<20-4)
	wantError(t, err, ErrOutOfRange)
	closeIt(t, r)

	_, err = CreateRegionFile(path, 1<<20)
	wantError(t, err, fs.ErrExist, path)
	again, err := OpenRegionFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := again.ReadAt(got, 1<<20-5); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	closeIt(t, again)
}

func TestSection(t *testing.T) {
	d, path := newFile(t, 10*4096)
	disk := bytes.Repeat([]byte{7}, 10*4096)
	if _, err := d.WriteAt(disk, 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ off, n int64 }{{-4096, 8192}, {8 * 4096, 3 * 4096}, {11 * 4096, 1}} {
		_, err := d.Section(c.off, c.n)
		wantError(t, err, ErrOutOfRange)
	}
	_, err := d.Section(4096, 0)
	wantError(t, err, nil, "empty")

	r, err := d.Section(8*4096, 2*4096)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, d.Zero(0, 9*4096), ErrOutOfRange)
	if got := d.SizeBytes(); got != 8*4096 {
		t.Errorf("the disk has %d bytes left", got)
	}
	_, err = d.Section(0, 4096)
	wantError(t, err, nil, "has a metadata section already")

	// Data can't reach the section, the section can't reach data.
	_, err = d.WriteAt(make([]byte, 4096), 8*4096-1)
	wantError(t, err, ErrOutOfRange)
	wantError(t, d.Punch(0, 9*4096), ErrOutOfRange)
	_, err = r.WriteAt([]byte{1}, -1)
	wantError(t, err, ErrOutOfRange)
	_, err = r.WriteAt([]byte{1}, 2*4096)
	wantError(t, err, ErrOutOfRange)

	if _, err := r.WriteAt([]byte("meta"), 4096); err != nil {
		t.Fatal(err)
	}
	closeIt(t, r) // must not close the disk
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	copy(disk[9*4096:], "meta")
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("the disk differs, %v", err)
	}
}
