package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"duet/bitmap"
)

// sparseRegion is metadata in memory, of which only the blocks that were written take space.
type sparseRegion struct {
	mu     sync.Mutex
	blocks map[int64][]byte // replaced, never changed
	size   int64
	writes int
}

func newSparseRegion(size int64) *sparseRegion {
	return &sparseRegion{blocks: map[int64][]byte{}, size: size}
}

func (r *sparseRegion) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if off%superblockBytes != 0 || off+int64(len(p)) > r.size {
		return 0, io.ErrUnexpectedEOF
	}
	clear(p)
	copy(p, r.blocks[off])
	return len(p), nil
}

func (r *sparseRegion) WriteAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if off%superblockBytes != 0 || off+int64(len(p)) > r.size || len(p) != superblockBytes {
		return 0, errors.New("write is not one block of the region")
	}
	r.blocks[off] = slices.Clone(p)
	r.writes++
	return len(p), nil
}

func (r *sparseRegion) Sync() error  { return nil }
func (r *sparseRegion) Size() int64  { return r.size }
func (r *sparseRegion) Close() error { return nil }

func (r *sparseRegion) clone() *sparseRegion {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := newSparseRegion(r.size)
	for off, block := range r.blocks {
		c.blocks[off] = block
	}
	return c
}

// flip changes one bit of a byte.
func (r *sparseRegion) flip(off int64, at int) {
	block := slices.Clone(r.blocks[off])
	block[at] ^= 1 << (at % 8)
	r.blocks[off] = block
}

// testPeers are the others, of a replica with slot 0. Slots 4 and 5 belong to nobody any more.
const testPeers = bitmap.SlotMask(1<<1 | 1<<2)

// testHot are the extents that are hot in metadata left by a crash, in the order in which they became so. They are as many as
// it takes to make the newest block of the log need the one before it.
func testHot() []uint32 { return []uint32{20, 24, 28, 32} }

func testFormat() FormatConfig {
	return FormatConfig{ClusterID: "c-1", Resource: "r0", Node: "a", ResourceID: [16]byte{1, 2, 3}, SizeBytes: 40*bitmap.ExtentBytes - 1000, ALExtents: 1000}
}

func testBelonging() *Belonging {
	c := testFormat()
	return &Belonging{ClusterID: c.ClusterID, Node: c.Node, ResourceID: c.ResourceID, Slot: c.Slot, SizeBytes: c.SizeBytes}
}

// usedMetadata makes metadata as a replica leaves them: with an age, bits in several slots, and, unless clean, hot extents that were
// made so one after the other.
func usedMetadata(t testing.TB, clean bool) *sparseRegion {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	format := testFormat()
	r := newSparseRegion(MetadataBytes(format.SizeBytes, format.ALExtents))
	check(Format(r, format))
	super, _, err := openSuperblock(r)
	check(err)
	sb := super.superblock()
	sb.Promised, sb.DataGeneration, sb.LastInSync, sb.AttachCount, sb.BootID = 5, 5, 5, 2, "boot"
	sb.Peers[1], sb.Peers[2] = SuperblockPeer{Name: "b", CompleteSince: 4}, SuperblockPeer{Name: "c"}
	check(super.write(sb))
	store, _, err := bitmap.Open(newBitmapRegion(r, sb.Layout()), bitmap.Config{DeviceBytes: sb.SizeBytes, ALExtents: sb.ALExtents}, testPeers)
	check(err)
	const block = bitmap.BlockBytes
	store.Set(bitmap.SlotBit(1), 0, 1)
	store.Set(bitmap.SlotBit(1), 31740*block, 9*block) // at the end of one page and the beginning of the next
	store.Set(bitmap.SlotBit(2), 100*block, 50*block)
	store.Set(bitmap.SlotBit(4), sb.SizeBytes-1, 1)
	store.SetAll(5)
	check(store.Persist(bitmap.AllSlots))
	for _, extent := range testHot() {
		granted := make(chan error, 1)
		store.Acquire(extent, extent, func(err error) { granted <- err })
		check(<-granted)
		if clean {
			store.Release(extent, extent)
		}
	}
	check(store.Close(clean))
	return r
}

// dirtyRun are consecutive dirty blocks of one slot.
type dirtyRun struct {
	slot         int
	start, count uint64
}

// recovered opens the metadata as attaching does, and returns all that is dirty then.
func recovered(r *sparseRegion) (runs []dirtyRun, err error) {
	super, _, err := openSuperblock(r)
	if err != nil {
		return nil, err
	}
	sb := super.superblock()
	store, _, err := bitmap.Open(newBitmapRegion(r, sb.Layout()), bitmap.Config{DeviceBytes: sb.SizeBytes, ALExtents: sb.ALExtents}, testPeers)
	if err != nil {
		return nil, err
	}
	for slot := range bitmap.Slots {
		start, count, ok := store.NextDirty(slot, 0)
		for ; ok; start, count, ok = store.NextDirty(slot, start+count) {
			runs = append(runs, dirtyRun{slot, start, count})
		}
	}
	return runs, store.Close(false)
}

// covers tells whether all of want is in have. Both are sorted.
func covers(have, want []dirtyRun) bool {
	for _, w := range want {
		at := w.start
		for _, h := range have {
			if h.slot == w.slot && h.start <= at && at < h.start+h.count {
				at = h.start + h.count
			}
		}
		if at < w.start+w.count {
			return false
		}
	}
	return true
}

// countDirty counts the dirty blocks of one slot.
func countDirty(runs []dirtyRun, slot int) (n uint64) {
	for _, run := range runs {
		if run.slot == slot {
			n += run.count
		}
	}
	return n
}

// newestLogBlock returns where the newest block of the activity log is.
func newestLogBlock(r *sparseRegion) (offset int64) {
	newest := uint64(0)
	for off, block := range r.blocks {
		if sequence := binary.LittleEndian.Uint64(block[16:]); string(block[:4]) == "DUAL" && sequence > newest {
			newest, offset = sequence, off
		}
	}
	return offset
}

// One bit of any byte that counts may decay: inspecting says so, and attaching loses no bit. The only exception is the newest block
// of the log after a crash: it looks like a write that was interrupted, so what it says, and nothing else, is forgotten; inspecting shows it.
func TestEveryByteOfMetadata(t *testing.T) {
	for name, clean := range map[string]bool{"left in good order": true, "left by a crash": false} {
		t.Run(name, func(t *testing.T) {
			base := usedMetadata(t, clean)
			if found := Inspect(base, testBelonging()); len(found.Findings) > 0 || found.Bitmap.Log.Clean != clean {
				t.Fatalf("undamaged metadata: %+v", found)
			}
			want, err := recovered(base.clone())
			if err != nil {
				t.Fatal(err)
			}
			newest, forgotten, stride := newestLogBlock(base), want, 3*byteStride
			if !clean {
				stride = byteStride
				last := uint64(testHot()[len(testHot())-1]) * bitmap.ExtentBytes / bitmap.BlockBytes
				forgotten = slices.DeleteFunc(slices.Clone(want), func(run dirtyRun) bool {
					return run.start == last && testPeers.Has(run.slot)
				})
				if len(want)-len(forgotten) != 2 || covers(forgotten, want) {
					t.Fatalf("dirty is %v", want)
				}
			}
			for off, block := range base.blocks {
				stride := stride
				if allZero(block) {
					stride *= 7 // of the log: every byte is like the others
				}
				t.Run(fmt.Sprint(off), func(t *testing.T) {
					t.Parallel()
					want := want
					if off == newest {
						want = forgotten
					}
					for at := 0; at < superblockBytes; at += stride {
						flipByte(t, base, flipped{off, at}, want)
					}
				})
			}
		})
	}
}

type flipped struct {
	off int64
	at  int
}

func flipByte(t *testing.T, base *sparseRegion, f flipped, want []dirtyRun) {
	r := base.clone()
	r.flip(f.off, f.at)
	found := Inspect(r, testBelonging())
	if !slices.ContainsFunc(found.Findings, func(finding bitmap.Finding) bool { return finding.OffsetBytes == f.off }) || found.Fatal() {
		t.Fatalf("byte %d: inspecting finds %+v", f.at, found.Findings)
	}
	if r.writes != 0 {
		t.Fatal("inspecting has written")
	}
	have, err := recovered(r)
	if err != nil || !covers(have, want) {
		t.Fatalf("byte %d: %v, dirty is %v, want %v", f.at, err, have, want)
	}
	for _, slot := range []int{0, 3, 4, 5, 6, 7} { // where the hot extents do not count
		if n := countDirty(have, slot); n != found.Bitmap.Slots[slot].DirtyBlocks {
			t.Fatalf("byte %d: inspecting counts %d dirty blocks of slot %d, opening %d", f.at, found.Bitmap.Slots[slot].DirtyBlocks, slot, n)
		}
	}
	if f.at%64 != 0 {
		return
	}
	if again := Inspect(r, testBelonging()); slices.ContainsFunc(again.Findings, func(finding bitmap.Finding) bool {
		return finding.OffsetBytes >= 2*superblockBytes // the superblock is mended by its next write
	}) {
		t.Fatalf("byte %d: opening leaves %+v", f.at, again.Findings)
	}
}

// What keeps a replica from being attached is a fatal finding, and attaching refuses it in the same words.
func TestInspectRefusals(t *testing.T) {
	sb := func(change func(sb *Superblock)) func(r *sparseRegion) {
		return func(r *sparseRegion) {
			super, _, err := openSuperblock(r)
			if err != nil {
				t.Fatal(err)
			}
			changed := super.superblock()
			change(&changed)
			if err := super.write(changed); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name, words string
		damage      func(r *sparseRegion)
		bitmap      bool // it is looked at all the same
	}{
		{"both copies", "copies: damaged, damaged", func(r *sparseRegion) { r.flip(0, 100); r.flip(superblockBytes, 100) }, true},
		{"wiped", "no duet metadata", func(r *sparseRegion) {
			if err := Wipe(r); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"cut short", "cut short", func(r *sparseRegion) { r.size = 100 << 10 }, false},
		{"cut to nothing", "no duet metadata", func(r *sparseRegion) { r.size = 0 }, false},
		{"another cluster", "cluster c-2, this is c-1", sb(func(sb *Superblock) { sb.ClusterID = "c-2" }), true},
		{"another resource", "another resource", sb(func(sb *Superblock) { sb.ResourceID[0]++ }), true},
		{"another node", "replica of z", sb(func(sb *Superblock) { sb.NodeName = "z" }), true},
		{"another version", "another version", func(r *sparseRegion) {
			block := slices.Clone(r.blocks[0])
			block[sbVersion] = 2
			binary.LittleEndian.PutUint32(block[sbCRC:], superblockChecksum(block))
			r.blocks[0] = block
		}, true},
		{"no bitmap region", "no block is sound", func(r *sparseRegion) {
			for off := range r.blocks {
				if off >= bitmapOffsetBytes {
					delete(r.blocks, off)
				}
			}
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := usedMetadata(t, false)
			tt.damage(r)
			found := Inspect(r, testBelonging())
			text := fmt.Sprintf("%+v", found.Findings)
			if !found.Fatal() || !strings.Contains(text, tt.words) || (found.Bitmap != nil) != tt.bitmap {
				t.Errorf("found %s, bitmap %v", text, found.Bitmap)
			}
		})
	}
}

// Fields that duet never writes together are told, although the checksum fits.
func TestInspectContradictions(t *testing.T) {
	for words, change := range map[string]func(sb *Superblock){
		"promised only 5":           func(sb *Superblock) { sb.LastInSync = 6 },
		"data of generation 7":      func(sb *Superblock) { sb.DataGeneration = 7 },
		"not flagged inconsistent":  func(sb *Superblock) { sb.InconsistentSince = 3 },
		"not flagged failed":        func(sb *Superblock) { sb.FailReason = "?" },
		"slot 7 is complete":        func(sb *Superblock) { sb.Peers[7].CompleteSince = 3 },
		"slot 0 is its own":         func(sb *Superblock) { sb.Peers[0].Name = "x" },
		"older than that of the ot": nil,
	} {
		r := usedMetadata(t, true)
		old := r.blocks[0]
		super, _, err := openSuperblock(r)
		if err != nil {
			t.Fatal(err)
		}
		sb := super.superblock()
		if change != nil {
			change(&sb)
		}
		if err := super.write(sb); err != nil {
			t.Fatal(err)
		}
		if change == nil {
			r.blocks[0] = old
		}
		found := Inspect(r, testBelonging())
		if text := fmt.Sprintf("%+v", found.Findings); len(found.Findings) != 1 || !strings.Contains(text, words) || found.Fatal() {
			t.Errorf("want %q, found %s", words, text)
		}
	}
}

// FuzzInspect misplaces, erases and changes blocks, with a checksum that fits or not. Inspecting neither panics nor writes, and what it
// calls undamaged can be attached and has all bits.
func FuzzInspect(f *testing.F) {
	base := usedMetadata(f, false)
	want, err := recovered(base.clone())
	if err != nil {
		f.Fatal(err)
	}
	var places []int64
	for off := range base.blocks {
		places = append(places, off)
	}
	slices.Sort(places)
	f.Add([]byte{})
	f.Add([]byte{0, 0, 100, 1, 0xff, 1, 2, 9, 0, 0, 2, 5, 0, 0, 7, 3, 1, 24, 0, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		r := base.clone()
		changed := false
		for ; len(script) >= 5; script = script[5:] {
			off := places[int(script[1])%len(places)]
			block := slices.Clone(r.blocks[off])
			switch script[0] % 4 {
			case 0, 1:
				block[int(binary.LittleEndian.Uint16(script[2:]))%superblockBytes] ^= script[4]
				if script[0]%4 == 1 {
					reseal(block)
				}
			case 2:
				clear(block)
			case 3:
				copy(block, r.blocks[places[int(script[4])%len(places)]])
			}
			changed = changed || string(block) != string(base.blocks[off])
			r.blocks[off] = block
		}
		found := Inspect(r, testBelonging())
		if r.writes != 0 {
			t.Fatal("inspecting has written")
		}
		have, err := recovered(r)
		if (err != nil) && !found.Fatal() {
			t.Errorf("opening fails: %v; inspecting found %+v", err, found.Findings)
		}
		if !changed && (len(found.Findings) > 0 || !covers(have, want)) {
			t.Errorf("nothing was changed, and inspecting found %+v", found.Findings)
		}
	})
}

// reseal gives a changed block a checksum that fits.
func reseal(block []byte) {
	if string(block[:4]) == superblockMagic[:4] {
		binary.LittleEndian.PutUint32(block[sbCRC:], superblockChecksum(block))
		return
	}
	clear(block[8:12])
	binary.LittleEndian.PutUint32(block[8:], payloadChecksum(block))
}
