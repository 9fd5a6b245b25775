package replication

import (
	"math/rand/v2"
	"testing"

	"duet/bitmap"
)

// Whatever is added, in any order, is covered, in ascending ranges that do not touch; exactly, as long as there are few.
func TestDifferenceSetCoversWhatWasAdded(t *testing.T) {
	const blocks = 400
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		var set differenceSet
		var model [blocks]bool
		for range random.IntN(60) {
			first := random.IntN(blocks - 8)
			count := 1 + random.IntN(8)
			for b := first; b < first+count; b++ {
				if !model[b] {
					model[b] = true
					set.add(uint64(b)*bitmap.BlockBytes, bitmap.BlockBytes)
				}
			}
		}
		var got [blocks]bool
		last := uint64(0)
		for i, s := range set.spans {
			if i > 0 && s.off <= last {
				t.Fatalf("seed %d: range at %d after the end at %d", seed, s.off, last)
			}
			last = s.off + s.n
			for b := s.off / bitmap.BlockBytes; b < last/bitmap.BlockBytes; b++ {
				got[b] = true
			}
		}
		if got != model {
			t.Fatalf("seed %d: %v instead of %v", seed, got, model)
		}
	}
}

// A set that is given more ranges than it holds covers all of them, in bounded memory, and still counts exactly.
func TestDifferenceSetIsBounded(t *testing.T) {
	var set differenceSet
	const count = 5 * maxDifferenceSpans
	blockOf := func(i uint64) uint64 { return i/8*4096 + i%8*3 } // groups of neighbours, far apart
	for i := range uint64(count) {
		set.add(blockOf(i)*bitmap.BlockBytes, bitmap.BlockBytes)
	}
	if len(set.spans) > maxDifferenceSpans || cap(set.spans) > 2*maxDifferenceSpans {
		t.Fatalf("%d ranges, room for %d", len(set.spans), cap(set.spans))
	}
	if set.added != count*bitmap.BlockBytes || set.grainBytes == 0 {
		t.Errorf("%d bytes with a grain of %d", set.added, set.grainBytes)
	}
	at := 0
	for i := range uint64(count) {
		off := blockOf(i) * bitmap.BlockBytes
		for set.spans[at].off+set.spans[at].n <= off {
			at++
		}
		if s := set.spans[at]; s.off > off || s.off+s.n < off+bitmap.BlockBytes {
			t.Fatalf("block %d is not covered", blockOf(i))
		}
	}
	shown, more := set.ranges(count*4096*bitmap.BlockBytes, 10)
	if len(shown) != 10 || more != len(set.spans)-10 {
		t.Errorf("%d ranges and %d more of %d", len(shown), more, len(set.spans))
	}
}

// A range that was rounded outward does not reach beyond the device.
func TestDifferenceSetEndsWithTheDevice(t *testing.T) {
	set := differenceSet{grainBytes: 64 << 10}
	set.add(8192, 4096)
	if got, _ := set.ranges(16384, 1); len(got) != 1 || got[0] != (ByteRange{0, 16384}) {
		t.Errorf("%v", got)
	}
}
