package sim

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// streamBytes is how much is under way in one direction before a writer waits.
const streamBytes = 256 << 10

// segment is a part of a stream, and when it arrives.
type segment struct {
	at   time.Time
	data []byte
}

// stream is one direction of a connection.
type stream struct {
	network *network
	path    direction

	mu       sync.Mutex
	segments []segment
	bytes    int
	last     time.Time // arrival of the newest segment: order is kept
	ended    bool      // the sender closed; the reader gets what is left
	readErr  error
	writeErr error

	arrived chan struct{} // holds one when the reader should look again
	drained chan struct{} // holds one when the writer should

	readUntil, writeUntil deadline
}

func newStream(w *network, path direction) *stream {
	return &stream{network: w, path: path, arrived: make(chan struct{}, 1), drained: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *stream) notify() {
	signal(s.arrived)
	signal(s.drained)
}

// failWriter breaks the stream for who writes to it.
func (s *stream) failWriter(err error) {
	s.mu.Lock()
	if s.writeErr == nil {
		s.writeErr = err
	}
	s.mu.Unlock()
	s.notify()
}

// drop loses what has not arrived.
func (s *stream) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments, s.bytes, s.ended = nil, 0, false
}

// failLocal breaks the stream for who reads it.
func (s *stream) failLocal(err error) {
	s.mu.Lock()
	if s.readErr == nil {
		s.readErr = err
	}
	s.mu.Unlock()
	s.notify()
}

// deadline is a time limit that may move while somebody waits.
type deadline struct{ at time.Time }

// left is the time until the deadline; without one it is forever.
func (d deadline) left() time.Duration {
	if d.at.IsZero() {
		return forever
	}
	return time.Until(d.at)
}

const forever = time.Duration(1<<63 - 1)

// take copies what has arrived, or says how long to wait for the next look.
func (s *stream) take(p []byte) (n int, wait time.Duration, err error) {
	passes := s.network.passes(s.path)
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := s.readUntil.left()
	switch {
	case s.readErr != nil:
		return 0, 0, s.readErr
	case limit <= 0:
		return 0, 0, os.ErrDeadlineExceeded
	case len(s.segments) == 0 && s.ended && passes:
		return 0, 0, io.EOF
	case len(s.segments) == 0 || !passes:
		return 0, limit, nil
	}
	if until := time.Until(s.segments[0].at); until > 0 {
		return 0, min(limit, until), nil
	}
	for n < len(p) && len(s.segments) > 0 && !s.segments[0].at.After(time.Now()) {
		copied := copy(p[n:], s.segments[0].data)
		n += copied
		if s.segments[0].data = s.segments[0].data[copied:]; len(s.segments[0].data) == 0 {
			s.segments = s.segments[1:]
		}
	}
	s.bytes -= n
	signal(s.drained)
	return n, 0, nil
}

// put queues a part of p, or says how long to wait for room.
func (s *stream) put(p []byte, hop time.Duration) (n int, wait time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := s.writeUntil.left()
	switch {
	case s.writeErr != nil:
		return 0, 0, s.writeErr
	case s.ended:
		return 0, 0, net.ErrClosed
	case limit <= 0:
		return 0, 0, os.ErrDeadlineExceeded
	case s.bytes >= streamBytes:
		return 0, limit, nil
	}
	n = min(len(p), streamBytes-s.bytes)
	at := time.Now().Add(hop)
	if at.Before(s.last) {
		at = s.last
	}
	s.last = at
	s.segments = append(s.segments, segment{at, append([]byte(nil), p[:n]...)})
	s.bytes += n
	signal(s.arrived)
	return n, 0, nil
}

// pause waits for a signal, but not longer than limit.
func pause(signal <-chan struct{}, limit time.Duration) {
	if limit == forever {
		<-signal
		return
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-signal:
	case <-timer.C:
	}
}

// conn is one end of a connection.
type conn struct {
	network       *network
	in, out       *stream
	local, remote string
	once          sync.Once
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	for {
		n, wait, err := c.in.take(p)
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		pause(c.in.arrived, wait)
	}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n, wait, err := c.out.put(p[written:], c.network.hop())
		written += n
		if err != nil {
			return written, err
		}
		if n == 0 {
			pause(c.out.drained, wait)
		}
	}
	return written, nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = nil
		c.network.forget(c)
		c.in.failLocal(net.ErrClosed)
		told := !c.network.isDown(c.local) // before the lock of the stream, which comes behind that of the network
		c.out.mu.Lock()
		c.out.ended = told
		c.out.mu.Unlock()
		c.in.mu.Lock()
		if c.in.writeErr == nil {
			c.in.writeErr = errors.New("sim: broken pipe")
		}
		c.in.mu.Unlock()
		c.in.notify()
		c.out.notify()
	})
	return err
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return address(c.local) }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return address(c.remote) }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	c.in.readUntil.at = t
	c.in.mu.Unlock()
	c.in.notify()
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.mu.Lock()
	c.out.writeUntil.at = t
	c.out.mu.Unlock()
	c.out.notify()
	return nil
}
