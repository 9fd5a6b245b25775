package device

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Device is an exclusively opened disk. All methods may be called from any
// number of goroutines at once; ordering of overlapping requests is the
// caller's business.
type Device struct {
	path  string
	file  *os.File
	raw   syscall.RawConn // of file; keeps the descriptor open while in use
	block bool            // a block device, not a regular file

	// boundBytes is where requests must end: the size as last seen, less a
	// metadata section at the end.
	boundBytes atomic.Int64
	// dataEndBytes is where the metadata section begins, noSection if there
	// is none.
	dataEndBytes atomic.Int64

	// Capabilities that turned out to be missing are remembered, so that a
	// system call known to fail isn't tried for every request.
	noPunch, noZeroRange, noZeroOut, noDurableWrite, noNowaitRead atomic.Bool
}

// noSection is the value of dataEndBytes without a metadata section: no disk
// reaches it.
const noSection = int64(^uint64(0) >> 1)

// Open opens an existing file or block device for reading and writing,
// exclusively. It never changes the disk.
func Open(path string) (*Device, error) {
	file, block, err := openExclusive(path)
	if err != nil {
		return nil, err
	}
	d, err := newDevice(path, file, block)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return d, nil
}

// OpenReadOnly opens an existing file or block device to look at it. It fails
// with ErrInUse while a daemon has it, and keeps one from opening it until Close.
// All that would change the disk fails.
func OpenReadOnly(path string) (*Device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", path, plain(err))
	}
	block, err := kindOf(path, info)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", path, plain(err))
	}
	if err := lock(path, file, unix.LOCK_SH); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	d, err := newDevice(path, file, block)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return d, nil
}

// newDevice wraps an already locked file.
func newDevice(path string, file *os.File, block bool) (*Device, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", path, err)
	}
	d := &Device{path: path, file: file, raw: raw, block: block}
	d.dataEndBytes.Store(noSection)
	sizeBytes, err := d.askSize()
	if err != nil {
		return nil, fmt.Errorf("disk %s: cannot ask its size: %w", path, err)
	}
	d.boundBytes.Store(sizeBytes)
	return d, nil
}

// openExclusive opens path and takes the locks described in the package
// documentation.
func openExclusive(path string) (file *os.File, block bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, false, fmt.Errorf("disk %s: %w", path, plain(err))
	}
	block, err = kindOf(path, info)
	if err != nil {
		return nil, false, err
	}
	flags := os.O_RDWR
	if block {
		flags |= unix.O_EXCL
	}
	file, err = os.OpenFile(path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, false, inUse(path, "it is mounted, or held by another daemon, LVM, md or swap; release it there")
	}
	if err != nil {
		return nil, false, fmt.Errorf("disk %s: %w", path, plain(err))
	}
	if err := lock(path, file, unix.LOCK_EX); err != nil {
		return nil, false, errors.Join(err, file.Close())
	}
	return file, block, nil
}

// kindOf tells a block device from a regular file and refuses all else.
func kindOf(path string, info fs.FileInfo) (block bool, err error) {
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return false, nil
	case mode.IsDir():
		return false, fmt.Errorf("disk %s: is a directory, not a file or block device", path)
	case mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0:
		return true, nil
	default:
		return false, fmt.Errorf("disk %s: is neither a regular file nor a block device", path)
	}
}

// lock takes the flock and makes sure that the locked file is still the one
// that path names: it may have been replaced between open and lock.
func lock(path string, file *os.File, how int) error {
	err := retry(func() error { return unix.Flock(int(file.Fd()), how|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return inUse(path, "another process holds its lock; stop that process, or choose another disk")
	}
	if err != nil {
		return fmt.Errorf("disk %s: cannot lock it: %w", path, err)
	}
	opened, err := file.Stat()
	if err != nil {
		return fmt.Errorf("disk %s: %w", path, plain(err))
	}
	named, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("disk %s: %w", path, plain(err))
	}
	if !os.SameFile(opened, named) {
		return fmt.Errorf("disk %s: was replaced while it was being opened; try again", path)
	}
	return nil
}

func inUse(path, advice string) error {
	return fmt.Errorf("disk %s: %w: %s", path, ErrInUse, advice)
}

// plain strips the "open PATH:" of an *fs.PathError, since our messages name
// the path themselves.
func plain(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

// retry repeats a system call that a signal interrupted. The Go runtime sends
// signals to its own threads, so EINTR is ordinary here.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Path returns the path the disk was opened by.
func (d *Device) Path() string { return d.path }

// IsBlock tells whether the disk is a block device.
func (d *Device) IsBlock() bool { return d.block }

// SizeBytes asks the disk for its present size, less a metadata section at its
// end. What it returns is the bound of all later requests. It returns 0 when
// the disk can't be asked any more: so a disk that shrank or went away is seen
// by a caller that compares, and later requests are refused rather than
// silently growing a file again.
func (d *Device) SizeBytes() int64 {
	sizeBytes, err := d.askSize()
	if err != nil {
		sizeBytes = 0
	}
	sizeBytes = min(sizeBytes, d.dataEndBytes.Load())
	d.boundBytes.Store(sizeBytes)
	return sizeBytes
}

func (d *Device) askSize() (int64, error) {
	if !d.block {
		info, err := d.file.Stat()
		if err != nil {
			return 0, plain(err)
		}
		return info.Size(), nil
	}
	var sizeBytes uint64
	err := d.control(func(fd int) error { return ioctlGetSize(fd, &sizeBytes) })
	if err == nil && sizeBytes > uint64(noSection) {
		err = fmt.Errorf("size %d is impossible", sizeBytes)
	}
	return int64(sizeBytes), err
}

// control runs a system call on the descriptor, which can't be closed
// meanwhile.
func (d *Device) control(call func(fd int) error) error {
	var callErr error
	err := d.raw.Control(func(fd uintptr) {
		callErr = retry(func() error { return call(int(fd)) })
	})
	if err != nil {
		return err
	}
	return callErr
}

// check refuses a range that isn't wholly inside [0, endBytes).
func (d *Device) check(what string, off, n, endBytes int64) error {
	if off >= 0 && n >= 0 && off <= endBytes && n <= endBytes-off {
		return nil
	}
	return fmt.Errorf("disk %s: %s of %d bytes at %d, size %d: %w", d.path, what, n, off, endBytes, ErrOutOfRange)
}

// ReadAt fills p from off or returns an error.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if err := d.check("read", off, int64(len(p)), d.boundBytes.Load()); err != nil {
		return 0, err
	}
	return d.readAt(p, off)
}

func (d *Device) readAt(p []byte, off int64) (int, error) {
	n, err := d.file.ReadAt(p, off)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		// Inside the bound there is no end of file unless the disk shrank.
		return n, fmt.Errorf("disk %s: read of %d bytes at %d: %w", d.path, len(p), off, ErrShrunk)
	default:
		return n, fmt.Errorf("disk %s: read of %d bytes at %d: %w", d.path, len(p), off, plain(err))
	}
}

// WriteAt writes p at off. The data may be in a volatile cache until Sync.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	if err := d.check("write", off, int64(len(p)), d.boundBytes.Load()); err != nil {
		return 0, err
	}
	return d.writeAt(p, off)
}

func (d *Device) writeAt(p []byte, off int64) (int, error) {
	n, err := d.file.WriteAt(p, off)
	if err != nil {
		return n, fmt.Errorf("disk %s: write of %d bytes at %d: %w", d.path, len(p), off, plain(err))
	}
	return n, nil
}

// Sync makes everything written before it stable.
func (d *Device) Sync() error {
	if err := d.control(unix.Fdatasync); err != nil {
		return fmt.Errorf("disk %s: flush: %w", d.path, err)
	}
	return nil
}

// Close gives the disk up: descriptor and locks. It does not flush. Further
// calls do nothing.
func (d *Device) Close() error {
	err := d.file.Close()
	if err == nil || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return fmt.Errorf("disk %s: close: %w", d.path, plain(err))
}
