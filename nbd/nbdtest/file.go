package nbdtest

import (
	"context"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// File is a device on a file. It carries out every request where it is submitted, with one system call, before it
// returns: the shortest way there is from a socket to the page cache.
type File struct {
	file      *os.File
	sizeBytes uint64
}

// OpenFile opens an existing file as a device.
func OpenFile(path string) (*File, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &File{file: file, sizeBytes: uint64(info.Size())}, nil
}

// Close closes the file.
func (d *File) Close() error { return d.file.Close() }

// SizeBytes returns the size that the file had when it was opened.
func (d *File) SizeBytes() uint64 { return d.sizeBytes }

// Read implements nbd.Device.
func (d *File) Read(p []byte, offset uint64, b batch, c completion) {
	_, err := d.file.ReadAt(p, int64(offset))
	c.Complete(b, err)
}

// Write implements nbd.Device.
func (d *File) Write(p []byte, offset uint64, fua bool, b batch, c completion) {
	_, err := d.file.WriteAt(p, int64(offset))
	c.Complete(b, d.stable(fua, err))
}

// stable makes a write durable if that was asked for and the write succeeded.
func (d *File) stable(fua bool, err error) error {
	if err != nil || !fua {
		return err
	}
	return unix.Fdatasync(int(d.file.Fd()))
}

// Flush implements nbd.Device.
func (d *File) Flush(b batch, c completion) { c.Complete(b, d.stable(true, nil)) }

// Trim implements nbd.Device.
func (d *File) Trim(offset, length uint64, fua bool, b batch, c completion) {
	c.Complete(b, d.stable(fua, d.allocate(unix.FALLOC_FL_PUNCH_HOLE, offset, length)))
}

// Zero implements nbd.Device.
func (d *File) Zero(offset, length uint64, fua, noHole, _ bool, b batch, c completion) {
	mode := uint32(unix.FALLOC_FL_PUNCH_HOLE)
	if noHole {
		mode = unix.FALLOC_FL_ZERO_RANGE
	}
	c.Complete(b, d.stable(fua, d.allocate(mode, offset, length)))
}

func (d *File) allocate(mode uint32, offset, length uint64) error {
	return unix.Fallocate(int(d.file.Fd()), mode|unix.FALLOC_FL_KEEP_SIZE, int64(offset), int64(length))
}

// Cache implements nbd.Device.
func (d *File) Cache(offset, length uint64, b batch, c completion) {
	c.Complete(b, unix.Fadvise(int(d.file.Fd()), int64(offset), int64(length), unix.FADV_WILLNEED))
}

// Extents implements nbd.Device.
func (d *File) Extents(ctx context.Context, offset, length uint64, emit func(length uint64, hole, zero bool) error) error {
	fd, end := int(d.file.Fd()), offset+length
	for offset < end && ctx.Err() == nil {
		data, err := unix.Seek(fd, int64(offset), unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) { // no data from here to the end of the file
			data, err = int64(end), nil
		}
		if err != nil {
			return err
		}
		if hole := min(uint64(data), end); hole > offset {
			if err := emit(hole-offset, true, true); err != nil {
				return err
			}
			offset = hole
			continue
		}
		next, err := unix.Seek(fd, int64(offset), unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		used := min(uint64(next), end)
		if err := emit(used-offset, false, false); err != nil {
			return err
		}
		offset = used
	}
	return ctx.Err()
}
