package device

import (
	"bytes"
	"encoding/binary"
)

// headBytes and tailBytes are how much of either end of a disk Probe looks at.
// All signatures that are searched at the beginning lie within headBytes.
const (
	headBytes = 1 << 20
	tailBytes = 1 << 20
)

// metadataMagic begins every copy of duet's superblock.
const metadataMagic = "DUETSB01"

// ends is what Probe has read of a disk.
type ends struct {
	sizeBytes int64
	head      []byte // from offset 0
	tail      []byte // up to sizeBytes
}

// at returns n bytes at an absolute offset, nil when they were not read.
func (e *ends) at(off int64, n int) []byte {
	last := off + int64(n)
	if off < 0 || last > e.sizeBytes {
		return nil
	}
	if last <= int64(len(e.head)) {
		return e.head[off:last]
	}
	tailStart := e.sizeBytes - int64(len(e.tail))
	if off >= tailStart {
		return e.tail[off-tailStart : last-tailStart]
	}
	return nil
}

// has tells whether text stands at off.
func (e *ends) has(off int64, text string) bool {
	return string(e.at(off, len(text))) == text && len(text) > 0
}

// hasAny tells whether text stands at one of the offsets.
func (e *ends) hasAny(text string, offsets ...int64) bool {
	for _, off := range offsets {
		if e.has(off, text) {
			return true
		}
	}
	return false
}

// signature says how something that may be on a disk is recognised.
type signature struct {
	what    string
	matches func(e *ends) bool
}

// fixed recognises a text at one of some offsets.
func fixed(what, text string, offsets ...int64) signature {
	return signature{what, func(e *ends) bool { return e.hasAny(text, offsets...) }}
}

// signatures is searched in order; the first match names the disk. What is most
// specific comes first: a disk with a filesystem often has the 55 AA of an old
// boot sector too.
func signatures() []signature {
	return []signature{
		fixed(DuetMetadata, metadataMagic, 0, 4096),
		{"LUKS-encrypted data", func(e *ends) bool { return e.hasAny("LUKS\xba\xbe", 0) || e.hasAny("SKUL\xba\xbe", luks2Copies...) }},
		{"an LVM2 physical volume", isLVM2},
		{"an md RAID member", isMDRAID},
		{"DRBD metadata", isDRBD},
		{"an ext4 filesystem", func(e *ends) bool { return extGeneration(e) == 4 }},
		{"an ext3 filesystem", func(e *ends) bool { return extGeneration(e) == 3 }},
		{"an ext2 filesystem", func(e *ends) bool { return extGeneration(e) == 2 }},
		fixed("an XFS filesystem", "XFSB", 0),
		fixed("a btrfs filesystem", "_BHRfS_M", 64<<10+64),
		fixed("an f2fs filesystem", "\x10\x20\xf5\xf2", 1024),
		fixed("a JFS filesystem", "JFS1", 32<<10),
		fixed("a reiserfs filesystem", "ReIsEr", 64<<10+52, 8<<10+52),
		fixed("a squashfs filesystem", "hsqs", 0),
		fixed("an ISO 9660 filesystem", "CD001", 32<<10+1),
		fixed("swap space", "SWAPSPACE2", swapMagicAt...),
		fixed("swap space", "SWAP-SPACE", swapMagicAt...),
		fixed("a BitLocker volume", "-FVE-FS-", 3),
		fixed("an NTFS filesystem", "NTFS    ", 3),
		fixed("an exFAT filesystem", "EXFAT   ", 3),
		{"a FAT filesystem", isFAT},
		{"a ZFS member", isZFS},
		fixed("a bcache device", "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", 4096+24),
		fixed("a qcow2 image", "QFI\xfb", 0),
		{"a GPT partition table", isGPT},
		{"a partition table", isMBR},
	}
}

// luks2Copies are the places where LUKS2 may keep its second header.
var luks2Copies = []int64{16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10}

// swapMagicAt is the end of the first page, for the page sizes there are.
var swapMagicAt = []int64{4<<10 - 10, 8<<10 - 10, 16<<10 - 10, 64<<10 - 10}

// extGeneration tells ext2, 3 and 4 apart by their feature words, 0 if it is
// none of them. Of the superblock at byte 1024:
//
//	56    2  magic 0xEF53
//	92    4  compatible features: 0x4 journal
//	96    4  incompatible features: 0x40 extents, 0x80 64bit, 0x200 flex_bg
//	100   4  read-only compatible features: 0x8 huge_file, 0x400 metadata_csum
func extGeneration(e *ends) int {
	const journal, newIncompatible, newReadOnly = 0x4, 0x40 | 0x80 | 0x200, 0x8 | 0x400
	superblock := e.at(1024, 104)
	if superblock == nil || binary.LittleEndian.Uint16(superblock[56:]) != 0xEF53 {
		return 0
	}
	compatible := binary.LittleEndian.Uint32(superblock[92:])
	incompatible := binary.LittleEndian.Uint32(superblock[96:])
	readOnly := binary.LittleEndian.Uint32(superblock[100:])
	switch {
	case incompatible&newIncompatible != 0 || readOnly&newReadOnly != 0:
		return 4
	case compatible&journal != 0:
		return 3
	default:
		return 2
	}
}

// isLVM2 looks for the label in the first four sectors, where LVM looks.
func isLVM2(e *ends) bool {
	for sector := int64(0); sector < 4; sector++ {
		if e.has(sector*512, "LABELONE") && e.has(sector*512+24, "LVM2 001") {
			return true
		}
	}
	return false
}

// isMDRAID looks where the superblock versions 1.1, 1.2, 1.0 and 0.90 are. The
// last two are at the end: 1.0 at 8 KiB to 12 KiB before it, 0.90 in the last
// whole 64 KiB but one.
func isMDRAID(e *ends) bool {
	const magic, magicBigEndian = "\xfc\x4e\x2b\xa9", "\xa9\x2b\x4e\xfc"
	sectors := e.sizeBytes / 512
	version10 := (sectors - 16) &^ 7 * 512
	version090 := e.sizeBytes&^(64<<10-1) - 64<<10
	return e.hasAny(magic, 0, 4096, version10, version090) || e.has(version090, magicBigEndian)
}

// isDRBD looks at the last whole 4 KiB block, where DRBD keeps its internal
// superblock: a big-endian magic 60 bytes into it, of the versions 0.7 to 9.
func isDRBD(e *ends) bool {
	superblock := e.at(e.sizeBytes&^4095-4096, 64)
	if superblock == nil {
		return false
	}
	switch binary.BigEndian.Uint32(superblock[60:]) {
	case 0x8374026a, 0x8374026b, 0x8374026c, 0x8374026d:
		return true
	}
	return false
}

// isFAT wants the boot signature and a type name: neither alone is telling.
func isFAT(e *ends) bool {
	if !e.has(510, "\x55\xaa") {
		return false
	}
	return e.has(54, "FAT12   ") || e.has(54, "FAT16   ") || e.has(54, "FAT     ") || e.has(82, "FAT32   ")
}

// isZFS looks for the uberblock magic, of either byte order, in the arrays of
// the first two labels (256 KiB each, array in the second half).
func isZFS(e *ends) bool {
	for label := int64(0); label < 2; label++ {
		for slot := int64(0); slot < 128; slot++ {
			off := label*256<<10 + 128<<10 + slot*1024
			if e.hasAny("\x0c\xb1\xba\x00\x00\x00\x00\x00", off) || e.hasAny("\x00\x00\x00\x00\x00\xba\xb1\x0c", off) {
				return true
			}
		}
	}
	return false
}

// isGPT accepts the table at either end, for both sector sizes.
func isGPT(e *ends) bool {
	return e.hasAny("EFI PART", 512, 4096, e.sizeBytes-512, e.sizeBytes-4096)
}

// isMBR wants the boot signature and at least one plausible partition, and no
// implausible one. Entries of 16 bytes begin at 446: a flag of 0 or 0x80, and a
// type at 4.
func isMBR(e *ends) bool {
	if !e.has(510, "\x55\xaa") {
		return false
	}
	table, used := e.at(446, 64), 0
	for ; len(table) >= 16; table = table[16:] {
		if table[0]&0x7f != 0 {
			return false
		}
		if table[4] != 0 {
			used++
		}
	}
	return used > 0
}

// zero tells whether p is all zeroes.
func zero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeroChunk))
		if !bytes.Equal(p[:n], zeroChunk[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

// DuetMetadata is what Probe calls the metadata of a replica.
const DuetMetadata = "duet metadata"
