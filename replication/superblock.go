package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"duet/bitmap"
)

// Errors of opening a replica's metadata.
var (
	// ErrNoMetadata: there is none; the region is empty, or was wiped.
	ErrNoMetadata = errors.New("no duet metadata")
	// ErrForeignMetadata: the region holds something else, or metadata of another version of duet.
	ErrForeignMetadata = errors.New("not metadata of this version of duet")
	// ErrDamagedMetadata: both copies of the superblock are unreadable. What the replica promised and what it is
	// missing is unknown.
	ErrDamagedMetadata = errors.New("duet metadata is damaged; the disk itself was not touched: " +
		"stop the daemon here, and `duet md check` says how the replica is made anew")
)

const (
	superblockBytes   = 4096
	superblockVersion = 1
	superblockCopies  = 2
	// superblockMagic begins each copy; its last two digits never change, versions are told apart by the version field.
	superblockMagic = "DUETSB01"

	// bitmapOffsetBytes leaves room between the superblock and the bitmap region for what later versions need.
	bitmapOffsetBytes = 64 << 10

	nameFieldBytes   = 64  // one byte of length and 63 of text: the bound of all names in duet
	reasonFieldBytes = 256 // one byte of length and 255 of text
)

// Superblock is what a replica knows about itself across restarts. docs/ON_DISK_FORMAT.md specifies it byte by byte.
type Superblock struct {
	Sequence uint64 // raised by one with every write

	ClusterID    string
	ResourceID   [16]byte
	ResourceName string
	NodeName     string
	Slot         int // this replica's bitmap slot on the other nodes
	SizeBytes    uint64
	ALExtents    int
	// BitmapOffset is where the bitmap region begins; 0: where it does in new metadata. It moves when the device grows.
	BitmapOffset int64

	// Promised is the newest generation that the replica promised; it never serves an older one again.
	Promised uint64
	// DataGeneration is the generation whose acknowledged writes the disk has up to when it was last written.
	DataGeneration uint64
	// LastInSync is the newest generation that the replica knows to have had it in the in-sync set.
	LastInSync uint64
	// Inconsistent: a resync into this disk has begun, in generation InconsistentSince, and not ended.
	Inconsistent      bool
	InconsistentSince uint64
	// Failed: the disk refused an operation, for FailReason, and is not used any more.
	Failed     bool
	FailReason string
	// JustCreated: duet created the disk, and nothing was written to it yet.
	JustCreated bool

	AttachCount uint64 // also kept with the disk, so that either restored alone is noticed
	Incarnation uint64 // of the process that attached last
	BootID      string // of the machine when it did

	Peers [bitmap.Slots]SuperblockPeer
}

// SuperblockPeer is what is known about the replica that a bitmap slot belongs to.
type SuperblockPeer struct {
	Name string // "": the slot is free
	// CompleteSince is the generation since which the slot's bitmap has every block that the peer may lack. 0: never.
	CompleteSince uint64
}

// MetadataLayout says where everything is in a replica's metadata.
type MetadataLayout struct {
	BitmapOffset int64
	BitmapBytes  int64
	TotalBytes   int64
}

// NewMetadataLayout is the layout for a device of the given size and an activity log of alExtents, 0 for the default.
func NewMetadataLayout(deviceBytes uint64, alExtents int) MetadataLayout {
	bitmapBytes := bitmap.RegionBytes(deviceBytes, alExtents)
	return MetadataLayout{BitmapOffset: bitmapOffsetBytes, BitmapBytes: bitmapBytes, TotalBytes: bitmapOffsetBytes + bitmapBytes}
}

// Layout is the layout of the metadata that sb belongs to.
func (sb *Superblock) Layout() MetadataLayout {
	return NewMetadataLayout(sb.SizeBytes, sb.ALExtents).movedTo(sb.BitmapOffset)
}

// movedTo is the layout with the bitmap region elsewhere, 0 for where it is.
func (l MetadataLayout) movedTo(offset int64) MetadataLayout {
	if offset != 0 {
		l.BitmapOffset, l.TotalBytes = offset, offset+l.BitmapBytes
	}
	return l
}

// grownTo is the layout for a larger device: behind the bitmap region that counts until then.
func (sb *Superblock) grownTo(sizeBytes uint64) MetadataLayout {
	return NewMetadataLayout(sizeBytes, sb.ALExtents).movedTo(sb.Layout().TotalBytes)
}

// Offsets of the superblock's fields; see encode.
const (
	sbVersion        = 8
	sbCRC            = 12
	sbSequence       = 16
	sbFlags          = 24
	sbSlot           = 28
	sbResourceID     = 32
	sbSize           = 48
	sbALExtents      = 56
	sbBitmapOffset   = 64
	sbBitmapBytes    = 72
	sbPromised       = 80
	sbDataGeneration = 88
	sbLastInSync     = 96
	sbInconsistent   = 104
	sbAttachCount    = 112
	sbIncarnation    = 120
	sbClusterID      = 128
	sbResourceName   = 192
	sbNodeName       = 256
	sbBootID         = 320
	sbFailReason     = 384
	sbPeers          = 1024
	sbPeerBytes      = 128
)

// Flags of a superblock.
const (
	sbFlagInconsistent = 1 << iota
	sbFlagFailed
	sbFlagJustCreated
	sbKnownFlags = 1<<iota - 1
)

// encode writes sb to the 4,096 bytes of dst. All integers are little-endian; a name is one byte of length and 63
// bytes of text, filled with zeroes. What is not shown is zero.
//
//	  0 magic "DUETSB01"         8 version      12 CRC-32C        16 sequence
//	 24 flags      28 slot      32 resource ID (16)               48 size in bytes
//	 56 AL extents 60 0         64 bitmap offset                  72 bitmap bytes
//	 80 promised                88 data generation                96 last in sync
//	104 inconsistent since     112 attach count                  120 incarnation
//	128 cluster id (64)        192 resource name (64)            256 node name (64)
//	320 boot id (64)           384 fail reason (256)             640 0
//	1024 + 128 i, i = 0..7:      0 peer name (64)   64 complete since   72 0
//	2048 0
//
// The CRC-32C is over all 4,096 bytes with its own field zero.
func (sb *Superblock) encode(dst []byte) error {
	if err := sb.validate(); err != nil {
		return err
	}
	dst = dst[:superblockBytes]
	clear(dst)
	le := binary.LittleEndian
	copy(dst, superblockMagic)
	le.PutUint32(dst[sbVersion:], superblockVersion)
	le.PutUint32(dst[sbFlags:], sb.flags())
	le.PutUint32(dst[sbSlot:], uint32(sb.Slot))
	copy(dst[sbResourceID:], sb.ResourceID[:])
	le.PutUint32(dst[sbALExtents:], uint32(sb.ALExtents))
	layout := sb.Layout()
	for _, field := range []struct{ at, value uint64 }{
		{sbSequence, sb.Sequence}, {sbSize, sb.SizeBytes},
		{sbBitmapOffset, uint64(layout.BitmapOffset)}, {sbBitmapBytes, uint64(layout.BitmapBytes)},
		{sbPromised, sb.Promised}, {sbDataGeneration, sb.DataGeneration}, {sbLastInSync, sb.LastInSync},
		{sbInconsistent, sb.InconsistentSince}, {sbAttachCount, sb.AttachCount}, {sbIncarnation, sb.Incarnation},
	} {
		le.PutUint64(dst[field.at:], field.value)
	}
	for _, field := range sb.texts() {
		dst[field.at] = byte(len(*field.text))
		copy(dst[field.at+1:], *field.text)
	}
	for i := range sb.Peers {
		le.PutUint64(dst[sbPeers+i*sbPeerBytes+nameFieldBytes:], sb.Peers[i].CompleteSince)
	}
	le.PutUint32(dst[sbCRC:], payloadChecksum(dst))
	return nil
}

func (sb *Superblock) flags() uint32 {
	var flags uint32
	for _, flag := range []struct {
		set bool
		bit uint32
	}{{sb.Inconsistent, sbFlagInconsistent}, {sb.Failed, sbFlagFailed}, {sb.JustCreated, sbFlagJustCreated}} {
		if flag.set {
			flags |= flag.bit
		}
	}
	return flags
}

// textField is a string at a fixed place.
type textField struct {
	what  string
	text  *string
	at    int
	bytes int // with the byte of length
}

func (sb *Superblock) texts() []textField {
	fields := []textField{
		{"cluster id", &sb.ClusterID, sbClusterID, nameFieldBytes},
		{"resource name", &sb.ResourceName, sbResourceName, nameFieldBytes},
		{"node name", &sb.NodeName, sbNodeName, nameFieldBytes},
		{"boot id", &sb.BootID, sbBootID, nameFieldBytes},
		{"fail reason", &sb.FailReason, sbFailReason, reasonFieldBytes},
	}
	for i := range sb.Peers {
		fields = append(fields, textField{"peer name", &sb.Peers[i].Name, sbPeers + i*sbPeerBytes, nameFieldBytes})
	}
	return fields
}

// setFailReason stores as much of reason as fits, without cutting a character in two.
func (sb *Superblock) setFailReason(reason string) {
	reason = strings.ToValidUTF8(reason, "?")
	for len(reason) >= reasonFieldBytes {
		_, last := utf8.DecodeLastRuneInString(reason[:reasonFieldBytes])
		reason = reason[:reasonFieldBytes-last]
	}
	sb.FailReason = reason
}

// validate says what in sb can't be stored, or can't have been.
func (sb *Superblock) validate() error {
	if sb.Slot < 0 || sb.Slot >= bitmap.Slots {
		return fmt.Errorf("superblock: slot is %d, want 0 to %d", sb.Slot, bitmap.Slots-1)
	}
	if sb.ALExtents == 0 {
		return errors.New("superblock: the number of activity log extents is missing")
	}
	if err := (bitmap.Config{DeviceBytes: sb.SizeBytes, ALExtents: sb.ALExtents}).Validate(); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	if at := sb.BitmapOffset; at != 0 && (at < bitmapOffsetBytes || at > bitmap.MaxDeviceBytes || at%superblockBytes != 0) {
		return fmt.Errorf("superblock: the bitmap region begins at %d", at)
	}
	for _, field := range sb.texts() {
		if len(*field.text) >= field.bytes || !utf8.ValidString(*field.text) {
			return fmt.Errorf("superblock: %s of %d bytes, at most %d bytes of UTF-8 are allowed", field.what, len(*field.text), field.bytes-1)
		}
	}
	return nil
}

// copyState is what was found where a copy of the superblock belongs.
type copyState uint8

const (
	copyGood    copyState = iota
	copyEmpty             // zeroes, or behind the end of the region
	copyDamaged           // a superblock that is torn or decayed, or a block that can't be read
	copyForeign           // something else
	copyVersion           // a sound superblock of another version
)

// String names the state for people.
func (s copyState) String() string {
	return [...]string{"good", "empty", "damaged", "foreign", "another version"}[s]
}

// decodeSuperblock reads one copy and says what it is. sb counts only if that is copyGood.
func decodeSuperblock(src []byte) (sb Superblock, state copyState) {
	switch {
	case len(src) != superblockBytes || allZero(src):
		return Superblock{}, copyEmpty
	case string(src[:len(superblockMagic)]) != superblockMagic:
		return Superblock{}, copyForeign
	case !crcMatches(src):
		return Superblock{}, copyDamaged
	case binary.LittleEndian.Uint32(src[sbVersion:]) != superblockVersion:
		return Superblock{}, copyVersion
	}
	sb.decodeFields(src)
	// Only what this version would have written is accepted: a block that encodes differently has fields of a version
	// that forgot to say so, and acting on half of them could lose data.
	var again [superblockBytes]byte
	if err := sb.encode(again[:]); err != nil || string(again[:]) != string(src) {
		return Superblock{}, copyVersion
	}
	return sb, copyGood
}

func (sb *Superblock) decodeFields(src []byte) {
	le := binary.LittleEndian
	flags := le.Uint32(src[sbFlags:])
	*sb = Superblock{
		Sequence:          le.Uint64(src[sbSequence:]),
		Slot:              int(le.Uint32(src[sbSlot:])),
		SizeBytes:         le.Uint64(src[sbSize:]),
		ALExtents:         int(le.Uint32(src[sbALExtents:])),
		Promised:          le.Uint64(src[sbPromised:]),
		DataGeneration:    le.Uint64(src[sbDataGeneration:]),
		LastInSync:        le.Uint64(src[sbLastInSync:]),
		Inconsistent:      flags&sbFlagInconsistent != 0,
		InconsistentSince: le.Uint64(src[sbInconsistent:]),
		Failed:            flags&sbFlagFailed != 0,
		JustCreated:       flags&sbFlagJustCreated != 0,
		AttachCount:       le.Uint64(src[sbAttachCount:]),
		Incarnation:       le.Uint64(src[sbIncarnation:]),
	}
	if at := le.Uint64(src[sbBitmapOffset:]); at != bitmapOffsetBytes {
		sb.BitmapOffset = int64(at)
	}
	copy(sb.ResourceID[:], src[sbResourceID:])
	for _, field := range sb.texts() {
		length := min(int(src[field.at]), field.bytes-1)
		*field.text = string(src[field.at+1 : field.at+1+length])
	}
	for i := range sb.Peers {
		sb.Peers[i].CompleteSince = le.Uint64(src[sbPeers+i*sbPeerBytes+nameFieldBytes:])
	}
}

func crcMatches(src []byte) bool {
	return superblockChecksum(src) == binary.LittleEndian.Uint32(src[sbCRC:])
}

// superblockChecksum is what the checksum of a block should be.
func superblockChecksum(src []byte) uint32 {
	var clean [superblockBytes]byte
	copy(clean[:], src)
	clear(clean[sbCRC : sbCRC+4])
	return payloadChecksum(clean[:])
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
