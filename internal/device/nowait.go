package device

import (
	"errors"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrWouldBlock is returned by ReadNowaitAt when the range is not in memory, or the disk can't tell.
var ErrWouldBlock = errors.New("not in memory")

// ReadNowaitAt fills p from off if that needs no wait for the disk (RWF_NOWAIT), so that a caller with other work in hand
// may try it at once. On ErrWouldBlock, and on any other error, p has no meaning and ReadAt is the way.
func (d *Device) ReadNowaitAt(p []byte, off int64) (int, error) {
	if err := d.check("read", off, int64(len(p)), d.boundBytes.Load()); err != nil {
		return 0, err
	}
	if d.noNowaitRead.Load() {
		return 0, ErrWouldBlock
	}
	r := nowaitReads.Get().(*nowaitRead)
	r.p, r.off, r.n, r.err = p, off, 0, nil
	err := d.raw.Control(r.run)
	n := r.n
	if err == nil {
		err = r.err
	}
	r.p = nil
	nowaitReads.Put(r)
	if err = verdict(n, len(p), err); errors.Is(err, errNoNowait) {
		d.noNowaitRead.Store(true)
		return 0, ErrWouldBlock
	}
	if err != nil {
		return 0, err
	}
	return n, nil
}

// errNoNowait says that the filesystem or the kernel can't read without waiting, now and later.
var errNoNowait = errors.New("no reading without waiting")

// verdict says what a call that read n of want bytes, or failed, has to say about the range.
func verdict(n, want int, err error) error {
	switch {
	case err == nil && n == want:
		return nil
	case err != nil && notSupported(err):
		return errNoNowait
	case err == nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return ErrWouldBlock // a part of the range was in memory, or nothing
	}
	return err
}

// nowaitRead is one preadv2 call in the making, pooled together with its function value as flaggedWrite is.
type nowaitRead struct {
	run func(fd uintptr)
	p   []byte
	off int64
	n   int
	err error
}

var nowaitReads = sync.Pool{New: func() any {
	r := &nowaitRead{}
	r.run = r.read
	return r
}}

func (r *nowaitRead) read(fd uintptr) {
	vector := unix.Iovec{Base: unsafe.SliceData(r.p)}
	vector.SetLen(len(r.p))
	n, _, errno := unix.Syscall6(unix.SYS_PREADV2, fd, uintptr(unsafe.Pointer(&vector)), 1,
		uintptr(r.off), uintptr(r.off>>32), unix.RWF_NOWAIT)
	if errno != 0 {
		r.err = errno
		return
	}
	r.n = int(n)
}
