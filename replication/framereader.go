package replication

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	// directReadBytes is from where on the rest of a payload is read straight into its place. Below it, reading ahead and
	// copying costs less than another read of the connection.
	directReadBytes = 32 << 10
	// shyReadBytes is what is read at a time around large frames: most likely the next one is as large, and whatever of
	// its payload is read ahead has to be copied.
	shyReadBytes = HeaderBytes
	// checksumBytes is how much of a payload is summed up at a time, while it is still in the processor's cache.
	checksumBytes = 128 << 10
)

// frameReader reads the frames of one connection, for one goroutine. Small frames are read many at a time; the payload of
// a large one is read without a copy.
type frameReader struct {
	source io.Reader
	ample  io.Reader     // source, for what is large
	hint   soonHint      // of source; nil if it takes none
	ahead  *bufio.Reader // reads source through readAhead
	shy    bool          // the last frame was large
	frames int           // read since the last look at source
}

// soonHint and ampleHint are what a connection may offer beyond net.Conn; see package internal/socket.
type soonHint interface{ ExpectSoon(soon bool) }

type ampleHint interface{ ReadAmple(p []byte) (int, error) }

// newFrameReader reads up to aheadBytes at a time, at least HeaderBytes.
func newFrameReader(source io.Reader, aheadBytes int) *frameReader {
	r := &frameReader{source: source, ample: source}
	if _, ok := source.(ampleHint); ok {
		r.ample = ampleReader{source.(ampleHint)}
	}
	r.hint, _ = source.(soonHint)
	r.ahead = bufio.NewReaderSize(readAhead{r}, aheadBytes)
	return r
}

// ampleReader reads what is large.
type ampleReader struct{ ampleHint }

func (r ampleReader) Read(p []byte) (int, error) { return r.ReadAmple(p) }

// readAhead is the source as the buffer sees it.
type readAhead struct{ *frameReader }

// Read looks at the source once. A peer that sends one small frame at a time waits for each to be answered, so the next
// one is near.
func (r readAhead) Read(p []byte) (int, error) {
	if r.hint != nil {
		r.hint.ExpectSoon(r.frames == 1 && !r.shy)
	}
	r.frames = 0
	if r.shy {
		p = p[:min(len(p), shyReadBytes)]
	}
	return r.source.Read(p)
}

// buffered is how much can be read without the connection.
func (r *frameReader) buffered() int { return r.ahead.Buffered() }

// header reads the next header into h. It returns io.EOF only when the stream ends between two frames.
func (r *frameReader) header(h *Header) error {
	src, err := r.ahead.Peek(HeaderBytes)
	if err != nil {
		if errors.Is(err, io.EOF) && len(src) > 0 {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	if *h, err = DecodeHeader(src); err != nil {
		return err
	}
	r.frames++
	r.shy = h.PayloadLength >= directReadBytes
	_, err = r.ahead.Discard(HeaderBytes)
	return err
}

// payload reads the payload of h into p, whose length must be h.PayloadLength, and verifies its checksum.
func (r *frameReader) payload(h *Header, p []byte) error {
	if len(p) != int(h.PayloadLength) {
		panic(fmt.Sprintf("replication: buffer of %d bytes for a payload of %d", len(p), h.PayloadLength))
	}
	sum := uint32(0)
	for rest := p; len(rest) > 0; {
		piece := rest[:min(len(rest), checksumBytes)]
		if err := r.full(piece); err != nil {
			if errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		sum = crc32.Update(sum, castagnoli, piece)
		rest = rest[len(piece):]
	}
	return h.compare(sum)
}

// full fills p: first with what is buffered, and the rest, if it is large, past the buffer.
func (r *frameReader) full(p []byte) error {
	n := min(len(p), r.buffered())
	if _, err := io.ReadFull(r.ahead, p[:n]); err != nil {
		return err
	}
	if rest := p[n:]; len(rest) >= directReadBytes {
		_, err := io.ReadFull(r.ample, rest)
		return err
	}
	_, err := io.ReadFull(r.ahead, p[n:])
	return err
}
