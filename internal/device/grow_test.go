package device

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestGrow(t *testing.T) {
	d, path := newFile(t, 4*4096)
	if _, err := d.WriteAt(bytes.Repeat([]byte{7}, 4*4096), 0); err != nil {
		t.Fatal(err)
	}
	_, err := d.WriteAt(make([]byte, 4096), 4*4096)
	wantError(t, err, ErrOutOfRange)
	for _, sizeBytes := range []int64{100 * 4096, 50 * 4096} { // the second is less, and changes nothing
		if err := d.Grow(sizeBytes); err != nil {
			t.Fatal(err)
		}
		if got := d.SizeBytes(); got != 100*4096 {
			t.Errorf("size %d", got)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(content[4*4096:], make([]byte, 96*4096)) || content[4*4096-1] != 7 {
		t.Errorf("%d bytes, %v", len(content), err)
	}
	if _, err := d.WriteAt(make([]byte, 4096), 99*4096); err != nil {
		t.Error(err)
	}
	if _, err := d.Section(50*4096, 50*4096); err != nil {
		t.Fatal(err)
	}
	if err := d.Grow(200 * 4096); err == nil || d.CanGrow() {
		t.Error("a disk with metadata at its end has grown")
	}
}

func TestGrowRegion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta")
	r, err := CreateRegionFile(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, sizeBytes := range []int64{3 << 20, 2 << 20} {
		if err := r.Grow(sizeBytes); err != nil || r.Size() != 3<<20 {
			t.Fatalf("size %d, %v", r.Size(), err)
		}
	}
	if _, err := r.WriteAt([]byte("hello"), 3<<20-5); err != nil {
		t.Fatal(err)
	}
	closeIt(t, r)
	again, err := OpenRegionFile(path)
	if err != nil || again.Size() != 3<<20 {
		t.Fatal(err)
	}
	closeIt(t, again)

	d, _ := newFile(t, 10*4096)
	section, err := d.Section(8*4096, 2*4096)
	if err != nil {
		t.Fatal(err)
	}
	if err := section.Grow(20 * 4096); err == nil || section.CanGrow() {
		t.Error("a section has grown")
	}
}
