package mux

import (
	"io"
	"net"
	"syscall"
	"testing"
	"unsafe"

	"duet/internal/pki"
)

// rawSide is the way by which a writer of vectors gets at the descriptor: as replication's does.
func rawSide(conn net.Conn) (syscall.RawConn, error) {
	if wrapper, ok := conn.(interface{ PlainConn() (net.Conn, bool) }); ok {
		if conn, ok = wrapper.PlainConn(); !ok {
			return nil, nil
		}
	}
	if socket, ok := conn.(syscall.Conn); ok {
		return socket.SyscallConn()
	}
	return nil, nil
}

// writeVector sends pieces with one system call.
func writeVector(raw syscall.RawConn, pieces ...string) (n int, err error) {
	var vectors []syscall.Iovec
	for _, piece := range pieces {
		vectors = append(vectors, syscall.Iovec{Base: unsafe.StringData(piece), Len: uint64(len(piece))})
	}
	var errno syscall.Errno
	err = raw.Write(func(fd uintptr) bool {
		var written uintptr
		written, _, errno = syscall.Syscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&vectors[0])), uintptr(len(vectors)))
		n = int(written)
		return errno != syscall.EAGAIN
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return n, err
}

// pair is both ends of a connection for peers.
func pair(t *testing.T, secure bool) [2]*Conn {
	t.Helper()
	var a, b *pki.Credentials
	if secure {
		ca := newCA(t)
		a, b = credentials(t, ca, "a", pki.KindData), credentials(t, ca, "b", pki.KindData)
	}
	m := listen(t, Config{Credentials: a})
	l := m.claim(t, ChannelPeer)
	dialed, err := newDialer(t, "b", b).Dial(t.Context(), m.Addr().String(), "a", ChannelPeer)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]*Conn{dialed, accepted.(*Conn)}
	t.Cleanup(func() {
		closeIt(t, ends[0])
		closeIt(t, ends[1])
	})
	return ends
}

// TestVectorsOnPlainConn sends vectors around net.Conn, in the runtime's poller and out of it, and reads them through it.
func TestVectorsOnPlainConn(t *testing.T) {
	for _, out := range []bool{false, true} {
		ends := pair(t, false)
		for i, conn := range ends {
			if out {
				if err := conn.TakeOut(); err != nil {
					t.Fatal(err)
				}
			}
			raw, err := rawSide(conn)
			if raw == nil || err != nil {
				t.Fatalf("out of the poller %v: no way to the socket: %v", out, err)
			}
			if n, err := writeVector(raw, "head", "payload"); n != 11 || err != nil {
				t.Fatalf("out of the poller %v: %d bytes, %v", out, n, err)
			}
			got := make([]byte, 11)
			if _, err := io.ReadFull(ends[1-i], got); err != nil || string(got) != "headpayload" {
				t.Errorf("out of the poller %v: %q, %v", out, got, err)
			}
		}
	}
}

// TestNoPlainConnUnderTLS: a writer that got hold of the socket would send its frames unencrypted.
func TestNoPlainConnUnderTLS(t *testing.T) {
	for _, out := range []bool{false, true} {
		for _, conn := range pair(t, true) {
			if out {
				if err := conn.TakeOut(); err != nil {
					t.Fatal(err)
				}
			}
			if raw, err := rawSide(conn); raw != nil || err != nil {
				t.Errorf("out of the poller %v: there is a way to the socket, %v", out, err)
			}
			if plain, ok := conn.PlainConn(); ok || plain != nil {
				t.Errorf("out of the poller %v: the plain connection is %T, %v", out, plain, ok)
			}
		}
	}
}
