package forgetful

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// change is one thing that was done to the content of a file.
type change struct {
	off, n    int64
	data      []byte // of n bytes, or nil for zeroes
	sizeBytes int64  // of the file afterwards
}

// file is the content of a file as everybody sees it and as the disk has it. The current content is always the durable
// one with all unsynced changes on top, in their order.
type file struct {
	current, durable content
	unsynced         []change
}

func newFile() *file { return &file{current: newContent(), durable: newContent()} }

// write puts data at off and makes the file long enough for it. The data must not be changed later.
func (f *file) write(data []byte, off int64) {
	n := int64(len(data))
	f.do(change{off: off, n: n, data: data, sizeBytes: max(f.current.sizeBytes, off+n)})
}

// zero makes a range read as zeroes; the file keeps its size.
func (f *file) zero(off, n int64) {
	n = max(0, min(n, f.current.sizeBytes-off))
	f.do(change{off: off, n: n, sizeBytes: f.current.sizeBytes})
}

// resize cuts the file off, or extends it by a hole.
func (f *file) resize(sizeBytes int64) {
	f.do(change{off: sizeBytes, n: max(0, f.current.sizeBytes-sizeBytes), sizeBytes: sizeBytes})
}

func (f *file) do(c change) {
	f.current.apply(c.off, c.n, c.data)
	f.current.resize(c.sizeBytes)
	f.unsynced = append(f.unsynced, c)
}

func (c *content) apply(off, n int64, data []byte) {
	if data == nil {
		c.zero(off, n)
	} else {
		c.write(data, off)
	}
}

// sync makes the current content durable.
func (f *file) sync() {
	for _, c := range f.unsynced {
		f.durable.apply(c.off, c.n, c.data)
		f.durable.resize(c.sizeBytes)
	}
	f.unsynced = nil
}

// fate is what becomes of a change at a power cut.
type fate int

const (
	kept fate = iota
	lost
	torn
	fates
)

// fatesOf draws the rule by which the fates of one file's, or one directory's, changes are drawn: often all the same.
func fatesOf(random *rand.Rand) func() fate {
	switch random.IntN(4) {
	case 0:
		return func() fate { return kept }
	case 1:
		return func() fate { return lost }
	}
	return func() fate { return fate(random.IntN(int(fates))) }
}

// forget makes the durable content what is found after the power cut, and that the current one. Changes are kept in
// their order: a sector that any order could leave, this one leaves too, when what came after it is lost.
func (f *file) forget(random *rand.Rand, loss *Loss) {
	draw := fatesOf(random)
	sizes := []int64{f.durable.sizeBytes}
	for _, c := range f.unsynced {
		loss.Writes++
		sizes = append(sizes, c.sizeBytes)
		switch draw() {
		case kept:
			f.durable.apply(c.off, c.n, c.data)
		case lost:
			loss.WritesLost++
		case torn:
			loss.WritesTorn++
			f.durable.tear(c, random)
		}
	}
	sizeBytes := sizes[len(sizes)-1]
	if random.IntN(2) == 0 {
		sizeBytes = sizes[random.IntN(len(sizes))]
	}
	f.durable.sizeBytes = f.durable.end() // kept writes may lie behind every size
	f.durable.resize(sizeBytes)
	f.unsynced = nil
	f.current = f.durable.clone()
}

// tear applies some of the sectors of a change.
func (c *content) tear(change change, random *rand.Rand) {
	for off, end := change.off, change.off+change.n; off < end; {
		n := min(sectorBytes-off%sectorBytes, end-off)
		if random.IntN(2) == 0 {
			var data []byte
			if change.data != nil {
				data = change.data[off-change.off:][:n]
			}
			c.apply(off, n, data)
		}
		off += n
	}
}

func (c *content) clone() content {
	copied := content{sizeBytes: c.sizeBytes, pages: make(map[int64]*[pageBytes]byte, len(c.pages))}
	for number, page := range c.pages {
		p := *page
		copied.pages[number] = &p
	}
	return copied
}

// attributes are extended attributes as everybody sees them and as the disk has them.
type attributes struct {
	current, durable map[string][]byte
}

func newAttributes() attributes {
	return attributes{current: make(map[string][]byte), durable: make(map[string][]byte)}
}

func (a *attributes) sync() { a.durable = maps.Clone(a.current) }

// forget keeps or loses what was done to each attribute.
func (a *attributes) forget(random *rand.Rand) {
	for _, name := range slices.Sorted(maps.Keys(a.current)) {
		if random.IntN(2) == 0 {
			a.durable[name] = a.current[name]
		}
	}
	a.current = maps.Clone(a.durable)
}
