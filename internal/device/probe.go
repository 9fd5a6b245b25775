package device

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// tailScanMarginBytes is what duet's internal metadata may take beyond its
// bitmaps: superblocks, activity log, page directories.
const tailScanMarginBytes = 16 << 20

// Probe says what is on the disk at path, in words that fit after "holds":
// "an ext4 filesystem", "duet metadata", "a partition table". "data" means that
// the first or last MiB isn't zero, but nothing known was found there. "" means
// that there is nothing: no disk, or one whose ends are zero.
//
// Probe takes no lock and changes nothing, so that it may be asked of a disk
// that is in use.
func Probe(path string) (what string, err error) {
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
	what, err = probe(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return "", fmt.Errorf("disk %s: cannot look at it: %w", path, plain(err))
	}
	return what, nil
}

func probe(file *os.File) (string, error) {
	sizeBytes, err := file.Seek(0, io.SeekEnd) // works for block devices too
	if err != nil {
		return "", err
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

// scanForMetadata looks for a superblock of internal metadata, which begins
// somewhere near the end: eight bitmaps of one bit per 4 KiB take one 4096th of
// the disk, the rest is bounded. It runs only for disks that are zero at both
// ends, so that it seldom costs anything.
func scanForMetadata(file *os.File, sizeBytes int64) (string, error) {
	const alignBytes = 4096
	start := max(0, sizeBytes-sizeBytes/4096-tailScanMarginBytes) / alignBytes * alignBytes
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
