package device

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WriteDurableAt writes p at off; it is on stable media on return. One system
// call (RWF_DSYNC) does both where the kernel can, which for a block device is
// a forced-unit-access write instead of a write and a full cache flush.
func (d *Device) WriteDurableAt(p []byte, off int64) (int, error) {
	if err := d.check("durable write", off, int64(len(p)), d.boundBytes.Load()); err != nil {
		return 0, err
	}
	return d.writeDurableAt(p, off)
}

func (d *Device) writeDurableAt(p []byte, off int64) (int, error) {
	if d.noDurableWrite.Load() {
		return d.writeThenSync(p, off)
	}
	n, err := d.writeWithFlags(p, off, unix.RWF_DSYNC)
	if n == 0 && notSupported(err) {
		d.noDurableWrite.Store(true)
		return d.writeThenSync(p, off)
	}
	if err != nil {
		return n, fmt.Errorf("disk %s: durable write of %d bytes at %d: %w", d.path, len(p), off, err)
	}
	return n, nil
}

// writeThenSync is the fallback for kernels and filesystems without
// per-write durability.
func (d *Device) writeThenSync(p []byte, off int64) (int, error) {
	n, err := d.writeAt(p, off)
	if err != nil {
		return n, err
	}
	return n, d.Sync()
}

// notSupported tells that the kernel, the filesystem or the driver lacks an
// operation, as opposed to having failed at it.
func notSupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY)
}

// flaggedWrite is one pwritev2 call in the making. It is pooled together with
// its function value, since a closure made per call would be an allocation for
// each write.
type flaggedWrite struct {
	run   func(fd uintptr)
	call  func(fd uintptr, p []byte, off int64, flags uintptr) (int, error)
	rest  []byte
	off   int64
	flags uintptr
	n     int
	err   error
}

var flaggedWrites = sync.Pool{New: func() any {
	w := &flaggedWrite{call: pwritev2}
	w.run = w.write
	return w
}}

// writeWithFlags writes all of p with the RWF_ flags given.
func (d *Device) writeWithFlags(p []byte, off int64, flags uintptr) (int, error) {
	w := flaggedWrites.Get().(*flaggedWrite)
	w.rest, w.off, w.flags, w.n, w.err = p, off, flags, 0, nil
	err := d.raw.Control(w.run)
	if err == nil {
		err = w.err
	}
	n := w.n
	w.rest = nil
	flaggedWrites.Put(w)
	return n, err
}

// write continues after short and interrupted writes until all is written.
func (w *flaggedWrite) write(fd uintptr) {
	for len(w.rest) > 0 {
		n, err := w.call(fd, w.rest, w.off, w.flags)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			w.err = err
			return
		}
		w.rest, w.off, w.n = w.rest[n:], w.off+int64(n), w.n+n
	}
}

// pwritev2 is the bare system call for one buffer. The package unix has it for
// vectors only, at the price of two allocations per call. The kernel takes the
// offset as two halves of a word each; on 64-bit machines it drops the second.
func pwritev2(fd uintptr, p []byte, off int64, flags uintptr) (int, error) {
	vector := unix.Iovec{Base: unsafe.SliceData(p)}
	vector.SetLen(len(p))
	n, _, errno := unix.Syscall6(unix.SYS_PWRITEV2, fd, uintptr(unsafe.Pointer(&vector)), 1,
		uintptr(off), uintptr(off>>32), flags)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
