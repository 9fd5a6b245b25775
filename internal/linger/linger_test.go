package linger

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// pair returns the two ends of a TCP connection.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	near, err = net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if far, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range []io.Closer{listener, near, far} {
			if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
	})
	return near, far
}

func needsLingering(t *testing.T) {
	t.Helper()
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("nothing lingers with a single processor")
	}
}

func TestEverythingArrives(t *testing.T) {
	needsLingering(t)
	near, far := pair(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+len(rest)%5000)
			if _, err := near.Write(rest[:n]); err != nil {
				return // the reader will miss it
			}
			rest = rest[n:]
		}
	}()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(NewConn(far), got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other bytes than were sent, or %v", err)
	}
}

func TestEndOfStream(t *testing.T) {
	near, far := pair(t)
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := NewReader(far).Read(make([]byte, 10)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

// A reader that waits is woken by the end of the connection and by a deadline, as that of a plain socket is.
func TestWaitingEnds(t *testing.T) {
	tests := map[string]struct {
		end  func(net.Conn) error
		want error
	}{
		"closed":   {func(c net.Conn) error { return c.Close() }, net.ErrClosed},
		"deadline": {func(c net.Conn) error { return c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) }, os.ErrDeadlineExceeded},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, far := pair(t)
			result := make(chan error, 1)
			go func() {
				_, err := NewConn(far).Read(make([]byte, 10))
				result <- err
			}()
			if err := tt.end(far); err != nil {
				t.Fatal(err)
			}
			if err := <-result; !errors.Is(err, tt.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestReadsAllocateNothing(t *testing.T) {
	needsLingering(t)
	near, far := pair(t)
	reader, p := NewReader(far), make([]byte, 64)
	allocations := testing.AllocsPerRun(200, func() {
		if _, err := near.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := reader.Read(p); err != nil {
			t.Fatal(err)
		}
	})
	if allocations > 0.5 {
		t.Errorf("%v allocations per read", allocations)
	}
}

func TestWhatIsNoSocketReadsByItself(t *testing.T) {
	near, far := net.Pipe()
	if NewReader(near) != io.Reader(near) {
		t.Error("a pipe is read in another way")
	}
	if err := errors.Join(near.Close(), far.Close()); err != nil {
		t.Error(err)
	}
}
