package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// pair returns the two ends of a connection, the second one taken out of the poller.
func pair(t *testing.T, network string) (net.Conn, *Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
		address = filepath.Join(dir, "s")
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	near, err := net.Dial(network, listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	far, err := New(accepted)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range []io.Closer{listener, near, far} {
			if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
	})
	return near, far.(*Conn)
}

func TestEverythingArrives(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			near, far := pair(t, network)
			want := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
			echoed := make(chan error, 1)
			go func() {
				_, err := io.CopyN(far, far, int64(len(want)))
				echoed <- err
			}()
			sent := make(chan error, 1)
			go func() {
				_, err := near.Write(want)
				sent <- err
			}()
			got := make([]byte, len(want))
			if _, err := io.ReadFull(near, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("other bytes than were sent, or %v", err)
			}
			if err := errors.Join(<-echoed, <-sent); err != nil {
				t.Error(err)
			}
			if far.RemoteAddr() == nil || far.LocalAddr() == nil {
				t.Error("the addresses are lost")
			}
		})
	}
}

func TestEndOfStream(t *testing.T) {
	near, far := pair(t, "tcp")
	if err := near.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := far.Read(make([]byte, 10)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if err := far.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := near.Read(make([]byte, 10)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the other end read %d bytes, %v", n, err)
	}
}

// fill writes until the socket takes nothing any more.
func fill(c *Conn) error {
	for p := make([]byte, 1<<20); ; {
		if _, err := c.Write(p); err != nil {
			return err
		}
	}
}

// Who waits is woken by the end of the connection, by a deadline, and by one that is set while it waits.
func TestWaitingEnds(t *testing.T) {
	read := func(c *Conn) error {
		_, err := c.Read(make([]byte, 10))
		return err
	}
	soon := func() time.Time { return time.Now().Add(10 * time.Millisecond) }
	tests := []struct {
		name string
		wait func(*Conn) error
		end  func(*Conn) error
		want error
	}{
		{"reader, closed", read, (*Conn).Close, net.ErrClosed},
		{"writer, closed", fill, (*Conn).Close, net.ErrClosed},
		{"reader, deadline", read, func(c *Conn) error { return c.SetReadDeadline(soon()) }, os.ErrDeadlineExceeded},
		{"writer, deadline", fill, func(c *Conn) error { return c.SetWriteDeadline(soon()) }, os.ErrDeadlineExceeded},
		{"reader, deadline in the past", read, func(c *Conn) error { return c.SetDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		{"raw reader, closed", func(c *Conn) error {
			raw, err := c.SyscallConn()
			if err != nil {
				return err
			}
			return raw.Read(func(uintptr) bool { return false })
		}, (*Conn).Close, net.ErrClosed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, far := pair(t, "tcp")
			result := make(chan error, 1)
			go func() { result <- tt.wait(far) }()
			if err := tt.end(far); err != nil {
				t.Fatal(err)
			}
			if err := <-result; !errors.Is(err, tt.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A deadline that is taken back has no effect.
func TestDeadlineTakenBack(t *testing.T) {
	near, far := pair(t, "tcp")
	if err := errors.Join(far.SetDeadline(time.Unix(1, 0)), far.SetDeadline(time.Time{})); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Write([]byte{7}); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1)
	if n, err := far.Read(p); n != 1 || err != nil || p[0] != 7 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestClosedConnection(t *testing.T) {
	_, far := pair(t, "tcp")
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := far.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_, readErr := far.Read(make([]byte, 1))
	_, writeErr := far.Write([]byte{1})
	for what, err := range map[string]error{
		"read": readErr, "write": writeErr, "deadline": far.SetDeadline(time.Time{}), "close": far.Close(),
		"control": raw.Control(func(uintptr) { t.Error("called") }), "linger": far.SetLinger(0),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestLingerResets(t *testing.T) {
	near, far := pair(t, "tcp")
	if err := errors.Join(far.SetLinger(0), far.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v", err)
	}
}

func TestWhatIsNoSocketStays(t *testing.T) {
	near, far := net.Pipe()
	if got, err := New(near); err != nil || got != near {
		t.Errorf("%v, %v", got, err)
	}
	if err := errors.Join(near.Close(), far.Close()); err != nil {
		t.Error(err)
	}
}

func TestReadsAndWritesAllocateNothing(t *testing.T) {
	near, far := pair(t, "tcp")
	p := make([]byte, 64)
	allocations := testing.AllocsPerRun(200, func() {
		if _, err := near.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := far.Read(p); err != nil {
			t.Fatal(err)
		}
		if _, err := far.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := near.Read(p); err != nil {
			t.Fatal(err)
		}
	})
	if allocations > 0.5 {
		t.Errorf("%v allocations per exchange", allocations)
	}
}
