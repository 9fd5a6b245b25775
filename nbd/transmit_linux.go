package nbd

import (
	"errors"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	// errWouldBlock says that the socket takes no more for now.
	errWouldBlock = errors.New("the socket is full")
	// errRevoked says that the export was revoked, so that nothing may leave.
	errRevoked = errors.New("the export was revoked")
)

// vectorEntries bounds one writev. Large payloads are at least 32 KiB, so 64 entries are more than a socket takes.
const vectorEntries = 64

// vector is what of a batch has yet to be sent, in order.
type vector struct {
	parts [][]byte
	next  int // parts before it have been sent
	iov   [vectorEntries]unix.Iovec
}

// load sets the vector to a whole batch.
func (v *vector) load(b *batch) {
	v.parts, v.next = v.parts[:0], 0
	from := 0
	for _, large := range b.large {
		v.add(b.small[from:large.after])
		v.add(large.data)
		from = large.after
	}
	v.add(b.small[from:])
}

func (v *vector) add(part []byte) {
	if len(part) > 0 {
		v.parts = append(v.parts, part)
	}
}

func (v *vector) empty() bool { return v.next == len(v.parts) }

// advance notes that n bytes were sent.
func (v *vector) advance(n int) {
	for n > 0 {
		part := v.parts[v.next]
		if n < len(part) {
			v.parts[v.next] = part[n:]
			return
		}
		n -= len(part)
		v.parts[v.next] = nil
		v.next++
	}
}

// writev makes one attempt to send, on a descriptor that does not block.
func (v *vector) writev(fd uintptr) (int, syscall.Errno) {
	parts := v.parts[v.next:min(len(v.parts), v.next+vectorEntries)]
	for i, part := range parts {
		v.iov[i].Base = unsafe.SliceData(part)
		v.iov[i].SetLen(len(part))
	}
	n, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v.iov)), uintptr(len(parts)))
	clear(v.iov[:len(parts)])
	return int(n), errno
}

// nonBlockingSide returns the raw form of a plain socket, nil for anything else.
func nonBlockingSide(conn net.Conn) (syscall.RawConn, error) {
	if socket, ok := conn.(syscall.Conn); ok {
		return socket.SyscallConn()
	}
	return nil, nil
}

// transmit sends the vector. Unless it may block it makes one attempt and returns errWouldBlock if something remains.
// The caller owns sending.
func (s *stream) transmit(mayBlock bool) error {
	defer s.blocked.stop()
	if s.socket == nil {
		return s.transmitParts()
	}
	s.mayBlock, s.sendError = mayBlock, nil
	err := s.socket.Write(s.attempt)
	switch {
	case s.sendError != nil:
		return s.sendError
	case err != nil:
		return err
	case !s.vector.empty():
		return errWouldBlock
	}
	return nil
}

// sendAttempt is called with the descriptor when it may be written. It returns false to be called again when the socket
// takes more.
func (s *stream) sendAttempt(fd uintptr) bool {
	for !s.vector.empty() {
		if s.isRevoked() {
			s.sendError = errRevoked
			return true
		}
		n, errno := s.vector.writev(fd)
		switch errno {
		case 0:
			s.vector.advance(n)
			if s.mayBlock {
				s.blocked.restart()
			}
		case unix.EINTR:
		case unix.EAGAIN:
			if s.mayBlock && s.blocked.running() == 0 {
				s.blocked.restart()
			}
			return !s.mayBlock
		default:
			s.sendError = errno
			return true
		}
	}
	return true
}

// transmitParts sends the vector through a connection that can only block.
func (s *stream) transmitParts() error {
	for !s.vector.empty() {
		if s.isRevoked() {
			return errRevoked
		}
		s.blocked.restart()
		part := s.vector.parts[s.vector.next]
		n, err := s.session.transport.Write(part[:min(len(part), blockingWriteBytes)])
		s.vector.advance(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// isRevoked is asked right before anything leaves.
func (s *stream) isRevoked() bool {
	select {
	case <-s.revoked:
		return true
	default:
		return false
	}
}
