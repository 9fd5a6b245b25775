package replication

import (
	"net"
	"os"
	"syscall"
	"unsafe"
)

// maxVectors is how many pieces one writev takes. 64 frames with a payload each are enough to keep a socket busy.
const maxVectors = 128

// vectorSocket writes many pieces to a socket with one system call and without waiting, which net.Buffers cannot. It
// allocates nothing per call. It serves one sender at a time.
type vectorSocket struct {
	raw     syscall.RawConn
	attempt func(fd uintptr) bool // method value of writev, made once

	vectors [maxVectors]syscall.Iovec
	count   int
	wait    bool // let the runtime wait until the socket takes something
	written int
	errno   syscall.Errno
}

// newVectorSocket returns nil when conn is no plain socket: then whatever wraps the socket has to see the bytes. A wrapper
// that leaves the bytes alone says so with a method PlainConn.
func newVectorSocket(conn net.Conn) *vectorSocket {
	if wrapper, ok := conn.(interface{ PlainConn() (net.Conn, bool) }); ok {
		if conn, ok = wrapper.PlainConn(); !ok {
			return nil
		}
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil // closed already: the ordinary way reports it
	}
	v := &vectorSocket{raw: raw}
	v.attempt = v.writev
	return v
}

// write sends the pieces, none of them empty and at most maxVectors, and returns how many bytes the socket took. With
// wait it returns only when that is not 0, on an error, or at the write deadline.
func (v *vectorSocket) write(pieces [][]byte, wait bool) (int, error) {
	v.count, v.wait, v.written, v.errno = len(pieces), wait, 0, 0
	for i, piece := range pieces {
		v.vectors[i].Base = unsafe.SliceData(piece)
		v.vectors[i].SetLen(len(piece))
	}
	err := v.raw.Write(v.attempt)
	clear(v.vectors[:v.count])
	if err == nil && v.errno != 0 {
		err = os.NewSyscallError("writev", v.errno)
	}
	return v.written, err
}

// writev is one attempt on a socket that does not block. It returns false to be called again when the socket takes
// more.
func (v *vectorSocket) writev(fd uintptr) bool {
	for {
		n, _, errno := syscall.Syscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v.vectors[0])), uintptr(v.count))
		switch errno {
		case 0:
			v.written = int(n)
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return !v.wait
		}
		v.errno = errno
		return true
	}
}
