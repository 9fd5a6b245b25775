package node

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"duet/internal/device"
	"duet/replication"
)

// FormerDisk says which replica's former content is to be written where.
type FormerDisk struct {
	Undo string // path of the undo file
	Disk string // path of the replica's disk as it is now; nothing of it is changed
	To   string // path of the image, which must not exist
}

// copyChunkBytes is how much of a disk is copied at once.
const copyChunkBytes = 1 << 20

// Restore writes what the disk held before its side of a split was given up: the disk as it is, with every saved block put back. Check
// sees whose the file is before anything is written. What is half-written is removed.
func (f *FormerDisk) Restore(check func(replication.UndoIdentity) error) (content replication.UndoContent, err error) {
	undo, err := os.Open(f.Undo)
	if err != nil {
		return content, err
	}
	defer func() { err = errors.Join(err, undo.Close()) }()
	content, err = replication.ReadUndo(undo, func(uint64, []byte) error { return nil })
	if err != nil {
		return content, fmt.Errorf("%s: %w", f.Undo, err)
	}
	if err := check(content.UndoIdentity); err != nil {
		return content, err
	}
	image, err := os.OpenFile(f.To, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return content, err
	}
	err = f.fill(image, undo, int64(content.SizeBytes))
	if err == nil {
		err = image.Sync()
	}
	if err = errors.Join(err, image.Close()); err == nil {
		return content, syncDirectory(filepath.Dir(f.To))
	}
	return content, errors.Join(err, device.Remove(f.To))
}

// fill makes the image. Blocks come from the disk first and from the undo file last: a block that is overwritten on the disk while it
// is copied has been saved before, so the saved one counts.
func (f *FormerDisk) fill(image, undo *os.File, size int64) error {
	if err := image.Truncate(size); err != nil {
		return err
	}
	disk, err := os.Open(f.Disk)
	if err != nil {
		return err
	}
	err = copyData(image, disk, size)
	if err = errors.Join(err, disk.Close()); err != nil {
		return err
	}
	_, err = replication.ReadUndo(undo, func(offset uint64, content []byte) error {
		_, err := image.WriteAt(content, int64(offset))
		return err
	})
	return err
}

// copyData copies what is not a hole.
func copyData(to, from *os.File, size int64) error {
	p := make([]byte, copyChunkBytes)
	for offset := int64(0); offset < size; {
		begin, err := from.Seek(offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			begin = offset // a device that knows no holes
		}
		end, err := from.Seek(begin, unix.SEEK_HOLE)
		if err != nil {
			end = size
		}
		for offset = begin; offset < min(end, size); {
			n, err := from.ReadAt(p[:min(copyChunkBytes, min(end, size)-offset)], offset)
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if n == 0 {
				return fmt.Errorf("%s is shorter than the device", from.Name())
			}
			if _, err := to.WriteAt(p[:n], offset); err != nil {
				return err
			}
			offset += int64(n)
		}
	}
	return nil
}
