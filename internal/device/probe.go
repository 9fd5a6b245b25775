package device

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// tailScanMarginBytes is what duet's internal metadata may take beyond its
// bitmaps: superblocks, activity log, page directories. It leaves room for disks
// that are a little larger than their replica.
const tailScanMarginBytes = 16 << 20

// bitmapShare is the part of a disk, one in so many bytes, that internal metadata
// takes for bitmaps: eight pages of 4 KiB for every 31 extents of 4 MiB.
const bitmapShare = 31 * (4 << 20) / (8 * 4096)

// Starts says where duet's internal metadata may begin on a disk of so many bytes.
// Only the owner of its layout can tell; see Probe.
type Starts func(diskBytes int64) []int64

// Probe says what is on the disk at path, in words that fit after "holds":
// "an ext4 filesystem", "duet metadata", "a partition table". "data" means that
// the first or last MiB isn't zero, but nothing known was found there. "" means
// that there is nothing: no disk, or one whose ends are zero.
//
// Internal metadata is looked for where starts, which may be nil, says, before
// anything else: the disk of a former replica begins with what its clients stored,
// a filesystem as a rule. Where both ends are zero it is also looked for in all
// the space near the end that it may occupy.
//
// Probe takes no lock and changes nothing, so that it may be asked of a disk
// that is in use.
func Probe(path string, starts Starts) (what string, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("disk %s: %w", path, plain(err))
	}
	if _, err := kindOf(path, info); err != nil {
		return "", err
	}
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("disk %s: %w", path, plain(err))
	}
	what, err = probe(file, starts)
	if err = errors.Join(err, file.Close()); err != nil {
		return "", fmt.Errorf("disk %s: cannot look at it: %w", path, plain(err))
	}
	return what, nil
}

func probe(file *os.File, starts Starts) (string, error) {
	sizeBytes, err := file.Seek(0, io.SeekEnd) // works for block devices too
	if err != nil {
		return "", err
	}
	if starts != nil {
		if found, err := metadataAt(file, sizeBytes, starts(sizeBytes)); found || err != nil {
			return DuetMetadata, err
		}
	}
	e := &ends{sizeBytes: sizeBytes}
	e.head = make([]byte, min(sizeBytes, headBytes))
	if _, err := io.ReadFull(io.NewSectionReader(file, 0, sizeBytes), e.head); err != nil {
		return "", err
	}
	e.tail = make([]byte, min(sizeBytes, tailBytes))
	if _, err := io.ReadFull(io.NewSectionReader(file, sizeBytes-int64(len(e.tail)), sizeBytes), e.tail); err != nil {
		return "", err
	}
	for _, s := range signatures() {
		if s.matches(e) {
			return s.what, nil
		}
	}
	if !zero(e.head) || !zero(e.tail) {
		return "data", nil
	}
	return scanForMetadata(file, sizeBytes)
}

// metadataAt tells whether metadata begins at one of some offsets. Either copy of
// the superblock says so, since a crash may have torn the other.
func metadataAt(file *os.File, sizeBytes int64, starts []int64) (bool, error) {
	const copies, copyBytes = 2, 4096
	block := make([]byte, len(metadataMagic))
	for _, start := range starts {
		for c := range int64(copies) {
			if start < 0 || start > sizeBytes-c*copyBytes-int64(len(block)) {
				continue
			}
			if _, err := file.ReadAt(block, start+c*copyBytes); err != nil {
				return false, err
			}
			if string(block) == metadataMagic {
				return true, nil
			}
		}
	}
	return false, nil
}

// scanForMetadata looks for a superblock of internal metadata, which begins
// somewhere near the end: the bitmaps take a known share of the disk, the rest is
// bounded. It runs only for disks that are zero at both ends, so that it seldom
// costs anything.
func scanForMetadata(file *os.File, sizeBytes int64) (string, error) {
	const alignBytes = 4096
	start := max(0, sizeBytes-sizeBytes/bitmapShare-tailScanMarginBytes) / alignBytes * alignBytes
	chunk := make([]byte, 1<<20)
	for off := start; off < sizeBytes; off += int64(len(chunk)) {
		chunk = chunk[:min(int64(len(chunk)), sizeBytes-off)]
		if _, err := io.ReadFull(io.NewSectionReader(file, off, sizeBytes), chunk); err != nil {
			return "", err
		}
		for at := 0; at+len(metadataMagic) <= len(chunk); at += alignBytes {
			if string(chunk[at:at+len(metadataMagic)]) == metadataMagic {
				return DuetMetadata, nil
			}
		}
	}
	return "", nil
}
