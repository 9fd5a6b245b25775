package nbd

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

const (
	// negotiationInboxBytes is enough for most options; larger ones are read around the buffer.
	negotiationInboxBytes = 4096
	// transmissionInboxBytes lets one read collect the requests of a deep queue: 32 writes of 4 KiB take 132 KiB.
	transmissionInboxBytes = 256 << 10
	// directReadBytes is from where on the rest of a payload is read straight into its destination. Below it, reading
	// ahead into the buffer and copying costs less than another read of the socket.
	directReadBytes = 32 << 10
	// shyReadBytes is what is read ahead when a large payload is expected.
	shyReadBytes = 4096
)

// inbox is the buffered reading side of a connection, used by one goroutine.
type inbox struct {
	source io.Reader
	buf    []byte // buf[start:end] has been read and not yet consumed
	start  int
	end    int
	// beforeRead is called before each read of the source, which may block.
	beforeRead func()
	// ample reads what is large: the source, or its method ReadAmple, which waits for more than the first segment.
	ample io.Reader
	// owed runs while the client owes the rest of a payload that it has announced.
	owed stallClock
	// expectLarge limits reading ahead to headers: what follows is probably the payload of another large request, which
	// need not be copied if it is read straight into place.
	expectLarge bool
}

// stallClock knows for how long somebody has made no progress.
type stallClock struct {
	epoch time.Time
	since atomic.Int64 // nanoseconds after epoch; zero when not running
}

// restart notes that there was progress, or that the waiting begins.
func (c *stallClock) restart() { c.since.Store(int64(time.Since(c.epoch)) | 1) }

// stop notes that nothing is waited for.
func (c *stallClock) stop() { c.since.Store(0) }

// running returns how long there has been no progress, zero if nothing is waited for.
func (c *stallClock) running() time.Duration {
	since := c.since.Load()
	if since == 0 {
		return 0
	}
	return time.Since(c.epoch) - time.Duration(since)
}

// readFrom makes conn the source.
func (in *inbox) readFrom(conn net.Conn) {
	in.source, in.ample = conn, conn
	if large, ok := conn.(interface {
		ReadAmple(p []byte) (int, error)
	}); ok {
		in.ample = readerFunc(large.ReadAmple)
	}
}

// readerFunc is a function as an io.Reader.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// grow gives the inbox a larger buffer, keeping what it holds.
func (in *inbox) grow(bytes int) {
	buf := make([]byte, bytes)
	in.end = copy(buf, in.buf[in.start:in.end])
	in.start = 0
	in.buf = buf
}

// buffered returns how much can be consumed without reading the source.
func (in *inbox) buffered() int { return in.end - in.start }

// peek returns the next n bytes, which stay valid until the next call. n must not exceed the buffer.
func (in *inbox) peek(n int) ([]byte, error) {
	for in.buffered() < n {
		if err := in.fill(); err != nil {
			return nil, in.truncated(err)
		}
	}
	return in.buf[in.start : in.start+n], nil
}

// skip consumes n buffered bytes.
func (in *inbox) skip(n int) { in.start += n }

// readFull fills p. The owed clock runs while the source has to be read for it.
func (in *inbox) readFull(p []byte) error {
	n := copy(p, in.buf[in.start:in.end])
	in.start += n
	if n == len(p) {
		return nil
	}
	in.owed.restart()
	defer in.owed.stop()
	for n < len(p) {
		got, err := in.readSome(p[n:])
		if err != nil {
			return truncated(err)
		}
		n += got
		in.owed.restart()
	}
	return nil
}

// readSome reads at least one byte into p, which is not empty, from an inbox that may be empty.
func (in *inbox) readSome(p []byte) (int, error) {
	if in.buffered() == 0 {
		if len(p) >= directReadBytes {
			return in.read(in.ample, p)
		}
		if err := in.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.buf[in.start:in.end])
	in.start += n
	return n, nil
}

// discard consumes n bytes, however many, without keeping them.
func (in *inbox) discard(n uint64) error {
	in.owed.restart()
	defer in.owed.stop()
	for n > 0 {
		if in.buffered() == 0 {
			if err := in.fill(); err != nil {
				return truncated(err)
			}
			in.owed.restart()
		}
		chunk := min(n, uint64(in.buffered()))
		in.start += int(chunk)
		n -= chunk
	}
	return nil
}

// fill reads the source once, into the free part of the buffer.
func (in *inbox) fill() error {
	switch {
	case in.start == in.end:
		in.start, in.end = 0, 0
	case in.end == len(in.buf):
		in.end = copy(in.buf, in.buf[in.start:in.end])
		in.start = 0
	}
	limit := len(in.buf)
	if in.expectLarge {
		limit = min(limit, in.end+shyReadBytes)
	}
	n, err := in.read(in.source, in.buf[in.end:limit])
	in.end += n
	return err
}

// read reads the source once, in one of its ways. It returns an error only if it read nothing.
func (in *inbox) read(source io.Reader, p []byte) (int, error) {
	if in.beforeRead != nil {
		in.beforeRead()
	}
	// An empty read without an error is legal for an io.Reader; one that does nothing else is broken.
	for range 100 {
		n, err := source.Read(p)
		if n > 0 {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// truncated tells an end between two messages from one within.
func (in *inbox) truncated(err error) error {
	if in.buffered() == 0 {
		return err
	}
	return truncated(err)
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
