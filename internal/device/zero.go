package device

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// zeroAlignBytes is what the middle part of a zeroing request on a block device
// is aligned to: no logical sector in use is larger.
const zeroAlignBytes = 4096

// zeroChunk is the source of written zeroes; it is never written to.
var zeroChunk [256 << 10]byte

// Punch makes [off, off+n) read as zeroes and gives its space back where the
// disk can. It is exact to the byte.
func (d *Device) Punch(off, n int64) error {
	if err := d.check("punch", off, n, d.boundBytes.Load()); err != nil {
		return err
	}
	err := d.zeroExactly(off, n, (*Device).punchAligned)
	if err != nil {
		return fmt.Errorf("disk %s: punch of %d bytes at %d: %w", d.path, n, off, err)
	}
	return nil
}

// Zero makes [off, off+n) read as zeroes and keeps its space allocated. It is
// exact to the byte.
func (d *Device) Zero(off, n int64) error {
	if err := d.check("zero", off, n, d.boundBytes.Load()); err != nil {
		return err
	}
	err := d.zeroExactly(off, n, (*Device).zeroAligned)
	if err != nil {
		return fmt.Errorf("disk %s: zero of %d bytes at %d: %w", d.path, n, off, err)
	}
	return nil
}

// zeroExactly hands the range to fast. Filesystems take any range and zero the
// partial blocks at its ends themselves; block devices take whole sectors only,
// so that the unaligned ends are written.
func (d *Device) zeroExactly(off, n int64, fast func(d *Device, off, n int64) error) error {
	if n == 0 {
		return nil
	}
	if !d.block {
		return fast(d, off, n)
	}
	head, middle := splitAligned(off, n)
	if head > 0 {
		if err := d.writeZeroes(off, head); err != nil {
			return err
		}
	}
	if middle > 0 {
		if err := fast(d, off+head, middle); err != nil {
			return err
		}
	}
	return d.writeZeroes(off+head+middle, n-head-middle)
}

// splitAligned cuts [off, off+n) into an unaligned head, an aligned middle and
// the rest.
func splitAligned(off, n int64) (head, middle int64) {
	head = min(n, (zeroAlignBytes-off%zeroAlignBytes)%zeroAlignBytes)
	middle = (n - head) / zeroAlignBytes * zeroAlignBytes
	return head, middle
}

// punchAligned prefers freeing space, then zeroing by the device, then writing.
// FALLOC_FL_PUNCH_HOLE on a block device is a zeroout that may unmap: the
// kernel promises zeroes, unlike BLKDISCARD.
func (d *Device) punchAligned(off, n int64) error {
	done, err := d.try(&d.noPunch, func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if done || err != nil {
		return err
	}
	return d.zeroAligned(off, n)
}

// zeroAligned prefers zeroing by the filesystem or device over writing.
func (d *Device) zeroAligned(off, n int64) error {
	if d.block {
		done, err := d.try(&d.noZeroOut, func(fd int) error { return ioctlZeroOut(fd, off, n) })
		if done || err != nil {
			return err
		}
		return d.writeZeroes(off, n)
	}
	done, err := d.try(&d.noZeroRange, func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if done || err != nil {
		return err
	}
	return d.writeZeroes(off, n)
}

// try runs a call that the disk may lack. done is false, with a nil error, when
// it is lacking, which is remembered in missing.
func (d *Device) try(missing *atomic.Bool, call func(fd int) error) (done bool, err error) {
	if missing.Load() {
		return false, nil
	}
	err = d.control(call)
	if notSupported(err) {
		missing.Store(true)
		return false, nil
	}
	return err == nil, err
}

func (d *Device) writeZeroes(off, n int64) error {
	for n > 0 {
		chunk := zeroChunk[:min(n, int64(len(zeroChunk)))]
		written, err := d.file.WriteAt(chunk, off)
		if err != nil {
			return plain(err)
		}
		off, n = off+int64(written), n-int64(written)
	}
	return nil
}

// ioctlZeroOut zeroes whole sectors of a block device, offloaded to the device
// where it can.
func ioctlZeroOut(fd int, off, n int64) error {
	span := [2]uint64{uint64(off), uint64(n)}
	return ioctl(fd, unix.BLKZEROOUT, unsafe.Pointer(&span))
}

// ioctlGetSize asks a block device for its size in bytes.
func ioctlGetSize(fd int, sizeBytes *uint64) error {
	return ioctl(fd, unix.BLKGETSIZE64, unsafe.Pointer(sizeBytes))
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	if errno != 0 {
		return errno
	}
	return nil
}
