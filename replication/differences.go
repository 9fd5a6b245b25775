package replication

import (
	"slices"

	"duet/bitmap"
)

// maxDifferenceSpans bounds the memory of a differenceSet to 1 MiB.
const maxDifferenceSpans = 1 << 16

// differenceSet is a set of byte ranges in bounded memory. When it would hold too many, neighbours are joined: then it
// covers more than was added, which is harmless where the ranges are copied. The zero value is empty.
type differenceSet struct {
	spans      []span // ascending, apart
	grainBytes uint64 // the ranges are multiples of it; 0: exact
	added      uint64 // bytes, each range counted when it was added
}

// add adds a range that was not added before.
func (d *differenceSet) add(off, n uint64) {
	d.added += n
	d.insert(off, n)
	for len(d.spans) > maxDifferenceSpans {
		d.coarsen()
	}
}

// insert merges a range with those that it overlaps or touches. Ranges come nearly in order, so the search is short.
func (d *differenceSet) insert(off, n uint64) {
	end := off + n
	if g := d.grainBytes; g > 0 {
		off, end = off/g*g, (end+g-1)/g*g
	}
	first := len(d.spans)
	for first > 0 && d.spans[first-1].off+d.spans[first-1].n >= off {
		first--
	}
	last := first
	for last < len(d.spans) && d.spans[last].off <= end {
		off, end = min(off, d.spans[last].off), max(end, d.spans[last].off+d.spans[last].n)
		last++
	}
	d.spans = slices.Replace(d.spans, first, last, span{off, end - off})
}

// coarsen doubles the grain.
func (d *differenceSet) coarsen() {
	d.grainBytes = max(2*d.grainBytes, 2*bitmap.BlockBytes)
	spans := d.spans
	d.spans = make([]span, 0, maxDifferenceSpans)
	for _, s := range spans {
		d.insert(s.off, s.n)
	}
}

// ranges are the first limit ranges within a device of sizeBytes, and how many more there are.
func (d *differenceSet) ranges(sizeBytes uint64, limit int) (first []ByteRange, more int) {
	shown := d.spans[:min(limit, len(d.spans))]
	for _, s := range shown {
		first = append(first, ByteRange{Offset: s.off, Length: min(s.n, sizeBytes-s.off)})
	}
	return first, len(d.spans) - len(shown)
}
