package socket

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"
)

// waysToRead are the ways to read, each with the same promises.
var waysToRead = map[string]func(c *Conn, p []byte) (int, error){
	"plain": func(c *Conn, p []byte) (int, error) { return c.Read(p) },
	"soon": func(c *Conn, p []byte) (int, error) {
		c.poll.wanted.Store(true) // on any machine
		return c.Read(p)
	},
	"ample": func(c *Conn, p []byte) (int, error) { return c.ReadAmple(p) },
}

type reader struct {
	conn *Conn
	way  func(c *Conn, p []byte) (int, error)
}

func (r reader) Read(p []byte) (int, error) { return r.way(r.conn, p) }

func TestEveryWayOfReadingGetsEverything(t *testing.T) {
	for name, way := range waysToRead {
		for _, network := range []string{"tcp", "unix"} {
			t.Run(name+" "+network, func(t *testing.T) {
				near, far := pair(t, network)
				want := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
				sent := make(chan error, 1)
				go func() { sent <- sendInPieces(near, want) }()
				got, err := io.ReadAll(reader{far, way})
				if err := errors.Join(err, <-sent); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes of %d, or others than were sent: %v", len(got), len(want), err)
				}
			})
		}
	}
}

// sendInPieces sends p in pieces of many sizes, and the end.
func sendInPieces(conn net.Conn, p []byte) error {
	for len(p) > 0 {
		n := min(len(p), 1+rand.IntN(1<<rand.IntN(20)))
		if _, err := conn.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return conn.(interface{ CloseWrite() error }).CloseWrite()
}

// TestReadingTakesWhatThereIs: who expects much, or soon, still gets the little that comes.
func TestReadingTakesWhatThereIs(t *testing.T) {
	for name, way := range waysToRead {
		t.Run(name, func(t *testing.T) {
			near, far := pair(t, "tcp")
			answer := make([]byte, 1<<20)
			for range 3 { // the first answers what was expected, the next ones what was not
				timer := time.AfterFunc(10*busyPollLimit, func() {
					if _, err := near.Write([]byte("abc")); err != nil {
						t.Error(err)
					}
				})
				if n, err := way(far, answer); n != 3 || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
				timer.Stop()
			}
		})
	}
}

func TestReadingEnds(t *testing.T) {
	for name, way := range waysToRead {
		t.Run(name+" at a deadline", func(t *testing.T) {
			_, far := pair(t, "tcp")
			if err := far.SetReadDeadline(time.Now().Add(2 * ampleWait)); err != nil {
				t.Fatal(err)
			}
			if _, err := way(far, make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		})
		t.Run(name+" with the connection", func(t *testing.T) {
			_, far := pair(t, "tcp")
			timer := time.AfterFunc(time.Millisecond, func() {
				if err := far.Close(); err != nil {
					t.Error(err)
				}
			})
			defer timer.Stop()
			if _, err := way(far, make([]byte, 100)); !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		})
	}
}

// TestLookingInVainIsNotRepeated: a reader whose messages come late goes to sleep, until one comes soon again.
func TestLookingInVainIsNotRepeated(t *testing.T) {
	near, far := pair(t, "tcp")
	far.poll.wanted.Store(true)
	p := make([]byte, 1)
	late := time.AfterFunc(20*busyPollLimit, func() {
		if _, err := near.Write([]byte{1}); err != nil {
			t.Error(err)
		}
	})
	defer late.Stop()
	if _, err := far.Read(p); err != nil {
		t.Fatal(err)
	}
	if !far.poll.missed.Load() {
		t.Error("the reader would look again, though the last message came late")
	}
	for range 1000 { // one that is there already comes soon, unless the machine takes the processor away just then
		if _, err := near.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := far.Read(p); err != nil {
			t.Fatal(err)
		}
		if !far.poll.missed.Load() {
			return
		}
	}
	t.Error("the reader never looks again")
}
