package forgetful

// pageBytes is the unit in which content is kept; a page that was never written, or was punched, is a hole.
const pageBytes = 4096

// content is a sparse file in memory.
type content struct {
	sizeBytes int64
	pages     map[int64]*[pageBytes]byte
}

func newContent() content { return content{pages: make(map[int64]*[pageBytes]byte)} }

// eachPage calls visit with the parts of [off, off+n) that lie in one page.
func eachPage(off, n int64, visit func(page, from, to int64)) {
	for end := off + n; off < end; {
		page, from := off/pageBytes, off%pageBytes
		to := min(pageBytes, from+end-off)
		visit(page, from, to)
		off += to - from
	}
}

// write puts p at off and leaves the size as it is.
func (c *content) write(p []byte, off int64) {
	eachPage(off, int64(len(p)), func(page, from, to int64) {
		if c.pages[page] == nil {
			c.pages[page] = new([pageBytes]byte)
		}
		p = p[copy(c.pages[page][from:to], p):]
	})
}

// zero makes a range read as zeroes; whole pages become holes.
func (c *content) zero(off, n int64) {
	if n/pageBytes > int64(len(c.pages)) {
		c.zeroKnown(off, n)
		return
	}
	eachPage(off, n, func(page, from, to int64) { c.zeroPart(page, from, to) })
}

// zeroKnown does it by the pages that are there, for a range with many more that are not.
func (c *content) zeroKnown(off, n int64) {
	for page := range c.pages {
		from, to := max(off-page*pageBytes, 0), min(off+n-page*pageBytes, pageBytes)
		if from < to {
			c.zeroPart(page, from, to)
		}
	}
}

func (c *content) zeroPart(page, from, to int64) {
	if from == 0 && to == pageBytes {
		delete(c.pages, page)
	} else if c.pages[page] != nil {
		clear(c.pages[page][from:to])
	}
}

// read fills p from off and returns how much of it is in the file.
func (c *content) read(p []byte, off int64) int {
	n := max(0, min(int64(len(p)), c.sizeBytes-off))
	p = p[:n]
	rest := p
	eachPage(off, n, func(page, from, to int64) {
		if c.pages[page] == nil {
			clear(rest[:to-from])
		} else {
			copy(rest, c.pages[page][from:to])
		}
		rest = rest[to-from:]
	})
	return len(p)
}

// resize gives the file its size; what lies behind it is gone.
func (c *content) resize(sizeBytes int64) {
	if c.sizeBytes > sizeBytes {
		c.zero(sizeBytes, c.sizeBytes-sizeBytes)
	}
	c.sizeBytes = sizeBytes
}

// end is where the last page that is there ends, if that is behind the end of the file.
func (c *content) end() int64 {
	end := c.sizeBytes
	for page := range c.pages {
		end = max(end, (page+1)*pageBytes)
	}
	return end
}

// seek finds the next data, or the next hole, at or after off. The end of the file is a hole.
func (c *content) seek(off int64, data bool) (int64, bool) {
	for off < c.sizeBytes {
		if (c.pages[off/pageBytes] != nil) == data {
			return off, true
		}
		off = (off/pageBytes + 1) * pageBytes
	}
	return c.sizeBytes, !data
}
