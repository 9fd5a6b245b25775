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
	switch {
	case err == nil && n == len(p):
		return n, nil
	case err != nil && notSupported(err):
		d.noNowaitRead.Store(true)
		return 0, ErrWouldBlock
	case err == nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return 0, ErrWouldBlock // a part of the range was in memory, or nothing
	}
	return 0, err
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
