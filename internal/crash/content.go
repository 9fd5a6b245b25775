package crash

import (
	"bytes"
	"io"
	"maps"
	"math/rand/v2"
)

const (
	// SectorBytes is the unit in which a write is torn.
	SectorBytes = 512
	pageBytes   = 4096
)

// Content is the content of a file: sparse and cheap to copy.
type Content struct {
	pages map[int64][]byte // by offset; a page is replaced, never changed
	size  int64
}

// NewContent returns a file of zeroes.
func NewContent(size int64) *Content { return &Content{pages: map[int64][]byte{}, size: size} }

// Clone returns an independent copy.
func (c *Content) Clone() *Content { return &Content{pages: maps.Clone(c.pages), size: c.size} }

// Size is the length in bytes.
func (c *Content) Size() int64 { return c.size }

// Pages is the number of pages of 4,096 bytes that were ever written.
func (c *Content) Pages() int { return len(c.pages) }

// ReadAt implements io.ReaderAt.
func (c *Content) ReadAt(p []byte, off int64) (int, error) {
	want := len(p)
	if off >= c.size {
		return 0, io.EOF
	}
	p = p[:min(int64(want), c.size-off)]
	for done := 0; done < len(p); {
		at := off + int64(done)
		in := at % pageBytes
		n := min(len(p)-done, int(pageBytes-in))
		if page := c.pages[at-in]; page != nil {
			copy(p[done:done+n], page[in:])
		} else {
			clear(p[done : done+n])
		}
		done += n
	}
	if len(p) < want {
		return len(p), io.EOF
	}
	return len(p), nil
}

// Put writes p at off, whatever the size: what is behind it shows when the size follows.
func (c *Content) Put(p []byte, off int64) {
	for len(p) > 0 {
		in := off % pageBytes
		n := min(len(p), int(pageBytes-in))
		page := make([]byte, pageBytes)
		copy(page, c.pages[off-in])
		copy(page[in:], p[:n])
		c.pages[off-in] = page
		p, off = p[n:], off+int64(n)
	}
}

// Resize cuts the file, or makes it longer by zeroes.
func (c *Content) Resize(size int64) {
	for at := range c.pages {
		if at+pageBytes <= size {
			continue
		}
		if at >= size {
			delete(c.pages, at)
			continue
		}
		page := bytes.Clone(c.pages[at])
		clear(page[size-at:])
		c.pages[at] = page
	}
	c.size = size
}

// Tear writes p at off, and leaves of each sector the old or the new one, or garbage.
func (c *Content) Tear(p []byte, off int64, rng *rand.Rand) {
	for at := 0; at < len(p); at += SectorBytes {
		sector := bytes.Clone(p[at:min(at+SectorBytes, len(p))])
		switch rng.IntN(8) {
		case 0:
			for i := range sector {
				sector[i] = byte(rng.Uint32())
			}
		case 1, 2, 3:
		default:
			continue
		}
		c.Put(sector, off+int64(at))
	}
}

// Flip inverts one bit.
func (c *Content) Flip(off int64, bit int) {
	var b [1]byte
	at := off + int64(bit/8)
	if _, err := c.ReadAt(b[:], at); err != nil {
		panic(err) // a test that damages what is not there
	}
	c.Put([]byte{b[0] ^ 1<<(bit%8)}, at)
}

// Discard makes a page read as zeroes, as if it had never been written.
func (c *Content) Discard(off int64) { delete(c.pages, off) }

// bytes returns everything.
func (c *Content) bytes() []byte {
	p := make([]byte, c.size)
	for at, page := range c.pages {
		if at < c.size {
			copy(p[at:], page)
		}
	}
	return p
}
