package replication

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"duet/bitmap"
)

const sectorBytes = 512

var errCrashed = errors.New("the machine crashed")

// crashRegion is a region whose writes are durable only after a sync. A crash keeps any subset of the sectors that
// were written since. Its fuse ends the machine after so many operations.
type crashRegion struct {
	cached, durable []byte
	pending         []pendingWrite
	size            int64
	fuse            int // operations left; negative: unlimited
}

type pendingWrite struct {
	off  int64
	data []byte
}

func newCrashRegion() *crashRegion {
	sb := exampleSuperblock()
	return &crashRegion{cached: make([]byte, 2*superblockBytes), durable: make([]byte, 2*superblockBytes),
		size: sb.Layout().TotalBytes, fuse: -1}
}

func (r *crashRegion) burn() error {
	if r.fuse == 0 {
		return errCrashed
	}
	r.fuse--
	return nil
}

func (r *crashRegion) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(r.cached)) {
		return 0, io.EOF
	}
	return copy(p, r.cached[off:]), nil
}

func (r *crashRegion) WriteAt(p []byte, off int64) (int, error) {
	// The write that the machine dies in may have reached the medium in part, so it is recorded first.
	r.pending = append(r.pending, pendingWrite{off, append([]byte(nil), p...)})
	copy(r.cached[off:], p)
	if err := r.burn(); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (r *crashRegion) Sync() error {
	if err := r.burn(); err != nil {
		return err
	}
	copy(r.durable, r.cached)
	r.pending = nil
	return nil
}

func (r *crashRegion) Size() int64 { return r.size }

// crash loses power: keep decides for each sector of each write since the last sync whether it is on the medium.
func (r *crashRegion) crash(keep func() bool) {
	for _, write := range r.pending {
		for at := 0; at < len(write.data); at += sectorBytes {
			if keep() {
				copy(r.durable[write.off+int64(at):], write.data[at:at+sectorBytes])
			}
		}
	}
	r.pending, r.fuse = nil, -1
	copy(r.cached, r.durable)
}

func exampleSuperblock() Superblock {
	return Superblock{
		Sequence: 1, ClusterID: "c-0a1b2c3d", ResourceID: [16]byte{0xd0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xdf},
		ResourceName: "orders", NodeName: "alpha", Slot: 2, SizeBytes: 64<<20 + 12288, ALExtents: 16,
		Promised: 41, DataGeneration: 40, LastInSync: 39, Inconsistent: true, InconsistentSince: 38,
		Failed: true, FailReason: "write: input/output error", JustCreated: true,
		AttachCount: 7, Incarnation: 9, BootID: "6c0ffee0-0000-4000-8000-00000000b007",
		Peers: [bitmap.Slots]SuperblockPeer{0: {"bravo", 12}, 7: {"charlie", 0}},
	}
}

func TestSuperblockGolden(t *testing.T) {
	sb := exampleSuperblock()
	block := make([]byte, superblockBytes)
	if err := sb.encode(block); err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "superblock.golden", []byte(dumpBytes(block)))
	golden, err := os.ReadFile(filepath.Join("testdata", "superblock.golden"))
	if err != nil {
		t.Fatal(err)
	}
	got, state := decodeSuperblock(parseDump(t, string(golden), superblockBytes))
	if state != copyGood || got != sb {
		t.Errorf("decoded %s %+v, want %+v", state, got, sb)
	}
}

// After the device has grown the bitmap region is elsewhere, and so are the offsets that everything else follows.
func TestSuperblockOfAGrownDevice(t *testing.T) {
	sb := exampleSuperblock()
	before := sb.Layout()
	grown := sb
	grown.SizeBytes, grown.BitmapOffset = 1<<30, sb.grownTo(1<<30).BitmapOffset
	block := make([]byte, superblockBytes)
	if err := grown.encode(block); err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "superblock_grown.golden", []byte(dumpBytes(block)))
	if got, state := decodeSuperblock(block); state != copyGood || got != grown {
		t.Errorf("decoded %s %+v, want %+v", state, got, grown)
	}
	after := grown.Layout()
	if after.BitmapOffset != before.TotalBytes || after.TotalBytes != before.TotalBytes+bitmap.RegionBytes(1<<30, sb.ALExtents) {
		t.Errorf("the layout is %+v, before it was %+v", after, before)
	}
}

func TestSuperblockRefusesWhatDoesNotFit(t *testing.T) {
	long := strings.Repeat("x", nameFieldBytes)
	for name, change := range map[string]func(sb *Superblock){
		"resource name too long": func(sb *Superblock) { sb.ResourceName = long },
		"peer name too long":     func(sb *Superblock) { sb.Peers[3].Name = long },
		"name is no text":        func(sb *Superblock) { sb.NodeName = "\xff" },
		"reason too long":        func(sb *Superblock) { sb.FailReason = strings.Repeat("x", reasonFieldBytes) },
		"slot too high":          func(sb *Superblock) { sb.Slot = bitmap.Slots },
		"slot negative":          func(sb *Superblock) { sb.Slot = -1 },
		"no size":                func(sb *Superblock) { sb.SizeBytes = 0 },
		"bitmap in the way":      func(sb *Superblock) { sb.BitmapOffset = 4096 },
		"bitmap between blocks":  func(sb *Superblock) { sb.BitmapOffset = 1<<20 + 512 },
		"bitmap out of reach":    func(sb *Superblock) { sb.BitmapOffset = 1<<50 + 4096 },
		"no activity log":        func(sb *Superblock) { sb.ALExtents = 0 },
		"activity log too big":   func(sb *Superblock) { sb.ALExtents = bitmap.MaxALExtents + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			sb := exampleSuperblock()
			change(&sb)
			if err := sb.encode(make([]byte, superblockBytes)); err == nil {
				t.Error("encoded all the same")
			}
		})
	}
}

func TestSuperblockFailReasonIsCutBetweenCharacters(t *testing.T) {
	for _, reason := range []string{"", "short", strings.Repeat("x", 1000), "a" + strings.Repeat("€", 200), "\xff" + strings.Repeat("x", 300)} {
		sb := exampleSuperblock()
		sb.setFailReason(reason)
		if !utf8.ValidString(sb.FailReason) || len(sb.FailReason) >= reasonFieldBytes || len(reason) > 400 && len(sb.FailReason) < reasonFieldBytes-4 {
			t.Errorf("reason of %d bytes became %q", len(reason), sb.FailReason)
		}
		if err := sb.encode(make([]byte, superblockBytes)); err != nil {
			t.Error(err)
		}
	}
}

// TestSuperblockSurvivesCrashes writes, loses power at any operation with any sectors torn, or is merely killed, opens
// again and goes on: the newest superblock whose write returned is never lost, and nothing is made up.
func TestSuperblockSurvivesCrashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		region := newCrashRegion()
		if err := formatSuperblock(region, exampleSuperblock()); err != nil {
			t.Fatal(err)
		}
		store, _, err := openSuperblock(region)
		if err != nil {
			t.Fatal(err)
		}
		durable := store.superblock()
		for range rapid.IntRange(1, 12).Draw(t, "lives") {
			attempted := durable
			region.fuse = rapid.IntRange(0, 12).Draw(t, "fuse")
			for err = nil; err == nil; {
				attempted = durable
				attempted.Promised++
				attempted.Peers[5].CompleteSince = attempted.Promised // in another sector
				if err = store.write(attempted); err == nil {
					durable = store.superblock()
				}
			}
			attempted.Sequence = durable.Sequence + 1
			region.fuse = -1
			if rapid.Bool().Draw(t, "power lost") {
				region.crash(func() bool { return rapid.Bool().Draw(t, "kept") })
			}
			if store, _, err = openSuperblock(region); err != nil {
				t.Fatalf("open after %d: %v", durable.Promised, err)
			}
			if got := store.superblock(); got != durable && got != attempted {
				t.Fatalf("opened %+v, want %+v or %+v", got, durable, attempted)
			}
			durable = store.superblock()
		}
	})
}

// TestSuperblockOutlivesTheDecayOfACopy shows that at rest either copy alone has the newest content.
func TestSuperblockOutlivesTheDecayOfACopy(t *testing.T) {
	for lost := range superblockCopies {
		region := newCrashRegion()
		if err := formatSuperblock(region, exampleSuperblock()); err != nil {
			t.Fatal(err)
		}
		for round := range uint64(5) {
			store, report, err := openSuperblock(region)
			if err != nil {
				t.Fatal(err)
			}
			if want := round > 0; report.Stale != want {
				t.Errorf("round %d: stale is %v, want %v", round, report.Stale, want)
			}
			sb := store.superblock()
			sb.Promised = 1000 + round
			if err := store.write(sb); err != nil {
				t.Fatal(err)
			}
			region.cached[lost*superblockBytes+100] ^= 1
			got, report, err := readSuperblock(region)
			if err != nil || got.Promised != sb.Promised || report.Copies[lost] != copyDamaged {
				t.Errorf("round %d, copy %d lost: promised %d, copies %v, error %v", round, lost, got.Promised, report.Copies, err)
			}
		}
	}
}

func TestSuperblockErrors(t *testing.T) {
	good := make([]byte, superblockBytes)
	sb := exampleSuperblock()
	if err := sb.encode(good); err != nil {
		t.Fatal(err)
	}
	changed := func(change func(b []byte)) []byte {
		b := append([]byte(nil), good...)
		change(b)
		return b
	}
	torn := changed(func(b []byte) { clear(b[1024:1536]) })
	resealed := func(change func(b []byte)) []byte {
		b := changed(change)
		clear(b[sbCRC : sbCRC+4])
		sum := payloadChecksum(b)
		copy(b[sbCRC:], []byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)})
		return b
	}
	newer := resealed(func(b []byte) { b[sbVersion] = 2 })
	unknownFlag := resealed(func(b []byte) { b[sbFlags+3] = 0x80 })
	empty, text := make([]byte, superblockBytes), []byte(strings.Repeat("something else. ", superblockBytes/16))
	size := sb.Layout().TotalBytes
	for _, test := range []struct {
		name          string
		first, second []byte
		size          int64
		want          error
	}{
		{"both good", good, good, size, nil},
		{"first torn", torn, good, size, nil},
		{"second torn", good, torn, size, nil},
		{"second never written", good, empty, size, nil},
		{"first overwritten", text, good, size, nil},
		{"nothing there", empty, empty, size, ErrNoMetadata},
		{"no room at all", empty, empty, 0, ErrNoMetadata},
		{"both torn", torn, torn, size, ErrDamagedMetadata},
		{"torn and empty", torn, empty, size, ErrDamagedMetadata},
		{"torn and overwritten", torn, text, size, ErrDamagedMetadata},
		{"something else", text, text, size, ErrForeignMetadata},
		{"newer version", newer, newer, size, ErrForeignMetadata},
		{"newer version beside an old copy", good, newer, size, ErrForeignMetadata},
		{"unknown flag", unknownFlag, unknownFlag, size, ErrForeignMetadata},
		{"cut short behind the superblock", good, good, size - 1, ErrDamagedMetadata},
		{"cut short in the second copy", good, good, superblockBytes + 100, ErrDamagedMetadata},
	} {
		t.Run(test.name, func(t *testing.T) {
			region := newCrashRegion()
			copy(region.cached, test.first)
			copy(region.cached[superblockBytes:], test.second)
			region.size = test.size
			got, _, err := readSuperblock(region)
			if !errors.Is(err, test.want) || (err == nil) != (got == sb) {
				t.Errorf("error is %v, want %v", err, test.want)
			}
		})
	}
}

// failingRegion cannot do what its errors say.
type failingRegion struct {
	*crashRegion
	read, sync error
}

func (r *failingRegion) ReadAt(p []byte, off int64) (int, error) {
	if r.read != nil && off == 0 {
		return 0, r.read
	}
	return r.crashRegion.ReadAt(p, off)
}

func (r *failingRegion) Sync() error {
	return errors.Join(r.sync, r.crashRegion.Sync())
}

func TestSuperblockStoreStaysFailed(t *testing.T) {
	region := &failingRegion{crashRegion: newCrashRegion()}
	if err := formatSuperblock(region, exampleSuperblock()); err != nil {
		t.Fatal(err)
	}
	store, _, err := openSuperblock(region)
	if err != nil {
		t.Fatal(err)
	}
	region.sync = errors.New("input/output error")
	if err := store.write(store.superblock()); !errors.Is(err, region.sync) {
		t.Errorf("error is %v", err)
	}
	failure := region.sync
	region.sync = nil
	if err := store.write(store.superblock()); !errors.Is(err, failure) {
		t.Errorf("a write after a failed sync returned %v", err)
	}
}

func TestSuperblockReadsBesideAnUnreadableCopy(t *testing.T) {
	region := &failingRegion{crashRegion: newCrashRegion()}
	if err := formatSuperblock(region, exampleSuperblock()); err != nil {
		t.Fatal(err)
	}
	region.read = errors.New("input/output error")
	if sb, report, err := readSuperblock(region); err != nil || sb != exampleSuperblock() || !report.Stale {
		t.Errorf("one copy unreadable: %+v, %v", report, err)
	}
	clear(region.cached)
	if _, _, err := readSuperblock(region); !errors.Is(err, region.read) || !errors.Is(err, ErrDamagedMetadata) {
		t.Errorf("one copy unreadable, one empty: %v", err)
	}
}

func TestSuperblockWipe(t *testing.T) {
	region := newCrashRegion()
	if err := formatSuperblock(region, exampleSuperblock()); err != nil {
		t.Fatal(err)
	}
	if err := wipeSuperblock(region); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openSuperblock(region); !errors.Is(err, ErrNoMetadata) {
		t.Errorf("error after wiping is %v", err)
	}
	region.size = 1 << 10
	if err := formatSuperblock(region, exampleSuperblock()); err == nil {
		t.Error("formatted a region that is too small")
	}
}

func TestBitmapRegionKeepsToItsPart(t *testing.T) {
	metadata := newCrashRegion()
	metadata.cached = make([]byte, metadata.size)
	metadata.durable = make([]byte, metadata.size)
	layout := NewMetadataLayout(64<<20+12288, 16)
	region := newBitmapRegion(metadata, layout)
	if region.Size() != layout.BitmapBytes || layout.BitmapOffset+layout.BitmapBytes != layout.TotalBytes {
		t.Fatalf("layout %+v, region of %d bytes", layout, region.Size())
	}
	if _, err := region.WriteAt([]byte{1}, 0); err != nil || metadata.cached[bitmapOffsetBytes] != 1 {
		t.Errorf("first byte went elsewhere: %v", err)
	}
	for _, off := range []int64{-1, region.Size()} {
		if _, err := region.WriteAt([]byte{1}, off); err == nil {
			t.Errorf("wrote at %d", off)
		}
		if _, err := region.ReadAt([]byte{1}, off); err == nil {
			t.Errorf("read at %d", off)
		}
	}
	if err := bitmap.Format(region, bitmap.Config{DeviceBytes: 64<<20 + 12288, ALExtents: 16}); err != nil {
		t.Errorf("format: %v", err)
	}
}

func FuzzDecodeSuperblock(f *testing.F) {
	sb := exampleSuperblock()
	block := make([]byte, superblockBytes)
	if err := sb.encode(block); err != nil {
		f.Fatal(err)
	}
	f.Add(block, uint16(0), byte(0))
	f.Add(block, uint16(sbSlot), byte(200))
	f.Add([]byte("DUETSB01"), uint16(1), byte(1))
	f.Fuzz(func(t *testing.T, src []byte, at uint16, value byte) {
		b := make([]byte, superblockBytes)
		copy(b, src)
		b[int(at)%superblockBytes] = value
		// A checksum that fits lets the fuzzer reach what is behind it.
		clear(b[sbCRC : sbCRC+4])
		sum := payloadChecksum(b)
		copy(b[sbCRC:], []byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)})
		sb, state := decodeSuperblock(b)
		if state != copyGood {
			return
		}
		again := make([]byte, superblockBytes)
		if err := sb.encode(again); err != nil || string(again) != string(b) {
			t.Fatalf("a good superblock encodes differently: %v", err)
		}
	})
}
