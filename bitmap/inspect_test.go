package bitmap

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"duet/internal/crash"
)

// What inspecting says of a region is what opening makes of it, and each kind of damage is told with its place.
func TestInspect(t *testing.T) {
	g := newGeometry(small.DeviceBytes, small.ALExtents)
	rewrite := func(r *memoryRegion, dirCopy int, sequence uint64, change func(d *directory)) {
		d := newDirectory(&g)
		copy(d.entries, r.block(g.directoryOffset(0, 0))[directoryBodyOffset:])
		change(d)
		b := make([]byte, diskBlockBytes)
		d.encodeBlock(b, 0, dirCopy, sequence)
		r.content.Put(b, g.directoryOffset(dirCopy, 0))
	}
	tests := []struct {
		name     string
		damage   func(r *memoryRegion)
		findings []string // where: problem / consequence, each in part
		fatal    bool
	}{
		{"nothing", func(*memoryRegion) {}, nil, false},
		{"one copy of the directory", func(r *memoryRegion) { r.content.Flip(g.directoryOffset(1, 0), 999) },
			[]string{"copy 1 of directory block 0: checksum / the other copy is used"}, false},
		{"both copies of the directory", func(r *memoryRegion) {
			r.content.Flip(g.directoryOffset(0, 0), 999)
			r.content.Flip(g.directoryOffset(1, 0), 1)
		}, []string{"copy 0 of directory block 0: checksum / page 0 of slot 0 to page 1 of slot 7 count as all dirty",
			"copy 1 of directory block 0: magic / page 0 of slot 0 to page 1 of slot 7 count as all dirty"}, false},
		{"an older copy of the directory", func(r *memoryRegion) { rewrite(r, 1, 100, func(*directory) {}) },
			[]string{"copy 0 of directory block 0: is older than that of the other copy, 100 / a crash leaves that"}, false},
		{"copies that differ", func(r *memoryRegion) {
			for dirCopy := range directoryCopies {
				rewrite(r, dirCopy, 100, func(d *directory) { d.set(pageID{7, uint32(dirCopy)}, entryAllDirty) })
			}
		}, []string{"copy 1 of directory block 0: at the same sequence / copy 0 is used"}, false},
		{"entries that are not used", func(r *memoryRegion) {
			for dirCopy := range directoryCopies {
				rewrite(r, dirCopy, 100, func(d *directory) {
					d.set(pageID{7, 0}, 3)
					d.entries[len(d.entries)-1] = byte(entryWritten)
				})
			}
		}, []string{"directory block 0: entry 14 is 3 / page 0 of slot 7 counts as all dirty",
			"directory block 0: entry 16124 is 1 / ignored"}, false},
		{"the newest block of the log", func(r *memoryRegion) { r.content.Flip(g.logOffset(3), 5000) },
			[]string{"activity log block 3: checksum / a crash interrupted"}, false},
		{"a block of the log that was never written", func(r *memoryRegion) { r.content.Flip(g.logOffset(15), 5000) },
			[]string{"activity log block 15: magic / in other blocks"}, false},
		{"a block of the log that has to be there", func(r *memoryRegion) { r.content.Flip(g.logOffset(2), 5000) },
			[]string{"activity log block 2: checksum / the whole log",
				"activity log: with a sequence up to 2, is not / every block counts"}, false},
		{"more of the log than a crash explains", func(r *memoryRegion) {
			r.content.Flip(g.logOffset(4), 5000)
			r.content.Flip(g.logOffset(5), 5000)
		}, []string{"activity log block 4: magic / the whole log", "activity log block 5: magic / the whole log",
			"activity log: than a crash explains / every block counts"}, false},
		{"a page", func(r *memoryRegion) { r.content.Flip(g.pageOffset(3, 0), 5000) },
			[]string{"bitmap page 0 of slot 3: checksum / bytes 0 to 130023423 of the device are resynced"}, false},
		{"the last page", func(r *memoryRegion) { r.content.Discard(g.pageOffset(3, 1)) },
			[]string{"bitmap page 1 of slot 3: never written / bytes 130023424 to 167771159 of the device are resynced"}, false},
		{"a log of another geometry", func(r *memoryRegion) {
			other := newGeometry(small.DeviceBytes+1, small.ALExtents)
			b := make([]byte, diskBlockBytes)
			newLogWriter(&other, 3).reset(b)
			r.content.Put(b, g.logOffset(4))
		}, []string{"activity log block 4: another geometry / not opened"}, true},
		{"nothing of it is left", func(r *memoryRegion) { r.content = crash.NewContent(r.size) },
			[]string{"copy 0 of directory block 0: never written / all dirty", "copy 1 of directory block 0: never written / all dirty",
				"activity log: no block is sound / every block", "activity log and directory: no block is sound / not opened"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := formatted(t, small)
			s, _ := opened(t, r, small, 0)
			s.Set(SlotBit(3), 31743*BlockBytes, 2*BlockBytes)
			s.SetAll(5)
			if err := s.Persist(AllSlots); err != nil {
				t.Fatal(err)
			}
			acquire(t, s, 20, 22)
			acquire(t, s, 30, 30)
			if err := s.Close(false); err != nil {
				t.Fatal(err)
			}
			tt.damage(r)
			found, err := Inspect(r, small)
			if err != nil {
				t.Fatal(err)
			}
			compareFindings(t, found.Findings, tt.findings)
			compareWithOpen(t, r, found, tt.fatal)
		})
	}
}

func compareFindings(t *testing.T, found []Finding, want []string) {
	t.Helper()
	if len(found) != len(want) {
		t.Fatalf("found %+v, want %q", found, want)
	}
	for i, text := range want {
		where, rest, _ := strings.Cut(text, ": ")
		problem, consequence, _ := strings.Cut(rest, " / ")
		if f := found[i]; !strings.Contains(f.Where, where) || !strings.Contains(f.Problem, problem) || !strings.Contains(f.Consequence, consequence) {
			t.Errorf("found %+v, want %s", f, text)
		}
	}
}

// compareWithOpen opens the region for no peer, so that the hot extents don't count.
func compareWithOpen(t *testing.T, r *memoryRegion, found *Inspection, fatal bool) {
	t.Helper()
	isFatal := false
	for _, f := range found.Findings {
		isFatal = isFatal || f.Fatal
	}
	s, recovery, err := Open(r, small, 0)
	if isFatal != fatal || (err != nil) != fatal {
		t.Fatalf("opening: %v; inspecting: %+v", err, found.Findings)
	}
	if fatal {
		return
	}
	damagedPages := 0
	for slot := range found.Slots {
		damagedPages += found.Slots[slot].DamagedPages
		if n := s.DirtyBlocks(slot); n != found.Slots[slot].DirtyBlocks {
			t.Errorf("slot %d has %d dirty blocks, inspecting says %d", slot, n, found.Slots[slot].DirtyBlocks)
		}
	}
	got := Recovery{Clean: recovery.Clean, HotExtents: len(found.Log.Hot), LogDamaged: found.Log.Damaged, UnsoundLogBlocks: len(found.Log.Unsound),
		DamagedPages: damagedPages, DamagedDirectoryCopies: found.Directory.UnsoundCopies, DamagedDirectoryBlocks: found.Directory.UnsoundBlocks}
	if got != recovery {
		t.Errorf("inspecting says %+v, opening %+v", got, recovery)
	}
	if err := s.Close(false); err != nil {
		t.Fatal(err)
	}
}

func TestInspectSaysWhatItCannotLookAt(t *testing.T) {
	r := newMemoryRegion(5000)
	if _, err := Inspect(r, small); !errors.Is(err, ErrRegionTooSmall) {
		t.Errorf("a region that is cut short: %v", err)
	}
	if _, err := Inspect(r, Config{}); err == nil || strings.Contains(fmt.Sprint(err), "too small") {
		t.Errorf("no configuration: %v", err)
	}
}
