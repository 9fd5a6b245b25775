package linger

import (
	"io"
	"net"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lingerTime is how long a reader waits in the kernel for what comes next before it leaves the waiting to the runtime.
const lingerTime = 300 * time.Microsecond

// reader reads a plain socket. It serves one goroutine at a time and allocates nothing.
type reader struct {
	socket  syscall.RawConn
	attempt func(fd uintptr) bool // method value, made once
	p       []byte
	n       int
	err     error
	polled  [1]unix.PollFd
	limit   unix.Timespec
}

// NewReader returns the reader of a plain socket; anything else reads as it does by itself. So does everything where the
// program has a single processor: there a reader that waits in the kernel keeps the others from running.
func NewReader(conn net.Conn) io.Reader {
	socket, ok := conn.(syscall.Conn)
	if !ok || runtime.GOMAXPROCS(0) < 2 {
		return conn
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return conn // closed already, which the first read reports
	}
	l := &reader{socket: raw}
	l.attempt = l.read
	return l
}

// Read implements io.Reader. Deadlines count as for the socket itself, give or take the lingering.
func (l *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	l.p, l.n, l.err = p, 0, nil
	err := l.socket.Read(l.attempt)
	l.p = nil
	switch {
	case err != nil:
		return 0, err
	case l.err != nil:
		return 0, l.err
	case l.n == 0:
		return 0, io.EOF
	}
	return l.n, nil
}

// read is called with the descriptor. It returns false to be called again once there is something to read.
func (l *reader) read(fd uintptr) bool {
	for lingered := false; ; {
		n, _, errno := unix.Syscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(l.p))), uintptr(len(l.p)))
		switch {
		case errno == 0:
			l.n = int(n)
			return true
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && lingered:
			return false
		case errno == unix.EAGAIN:
			if lingered = true; !l.linger(fd) {
				return false
			}
		default:
			l.err = errno
			return true
		}
	}
}

// linger waits for something to read and reports whether there is.
func (l *reader) linger(fd uintptr) bool {
	l.polled[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	l.limit = unix.NsecToTimespec(int64(lingerTime))
	n, err := unix.Ppoll(l.polled[:], &l.limit, nil)
	return err == nil && n > 0 // an interruption is as good as nothing
}
