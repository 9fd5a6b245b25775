package replication

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"duet/bitmap"
)

// naiveTransferLog is transferLog as sets of blocks and a count of references per extent.
type naiveTransferLog struct {
	blocks     map[uint64]map[uint64]bool // epoch to set of blocks
	references map[uint32]int
}

// runs returns the blocks of the epochs up to epoch as pairs of offset and length.
func (n *naiveTransferLog) runs(epoch uint64) [][2]uint64 {
	var sorted []uint64
	for e, blocks := range n.blocks {
		for block := range blocks {
			if e <= epoch {
				sorted = append(sorted, block)
			}
		}
	}
	slices.Sort(sorted)
	var runs [][2]uint64
	for _, block := range slices.Compact(sorted) {
		if n := len(runs); n > 0 && runs[n-1][0]+runs[n-1][1] == block*bitmap.BlockBytes {
			runs[n-1][1] += bitmap.BlockBytes
			continue
		}
		runs = append(runs, [2]uint64{block * bitmap.BlockBytes, bitmap.BlockBytes})
	}
	return runs
}

func collectRuns(l *transferLog, epoch uint64) [][2]uint64 {
	var runs [][2]uint64
	l.runsThrough(epoch, func(off, n uint64) { runs = append(runs, [2]uint64{off, n}) })
	return runs
}

func TestTransferLogAgainstSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var log transferLog
		naive := naiveTransferLog{blocks: map[uint64]map[uint64]bool{}, references: map[uint32]int{}}
		references := map[uint32]int{}
		retired := uint64(0)
		epoch := func(t *rapid.T) uint64 { return retired + rapid.Uint64Range(0, 3).Draw(t, "epoch") }
		t.Repeat(map[string]func(*rapid.T){
			"record": func(t *rapid.T) {
				e := epoch(t) + 1
				off := rapid.OneOf(rapid.Uint64Range(0, 3*bitmap.ExtentBytes),
					rapid.Map(rapid.Uint64Range(1, 4), func(at uint64) uint64 { return at*bitmap.ExtentBytes - 1 })).Draw(t, "off")
				n := rapid.OneOf(rapid.Uint64Range(0, 3*bitmap.BlockBytes),
					rapid.Uint64Range(0, 2*bitmap.ExtentBytes)).Draw(t, "n")
				log.record(e, off, n, func(extent uint32) { references[extent]++ })
				naive.record(e, off, n)
			},
			"retire": func(t *rapid.T) {
				e := epoch(t)
				log.retireThrough(e, func(extent uint32) { references[extent]-- })
				naive.retire(e)
				retired = max(retired, e)
			},
			"": func(t *rapid.T) {
				for _, e := range []uint64{retired + 1, ^uint64(0)} {
					if got, want := collectRuns(&log, e), naive.runs(e); !slices.Equal(got, want) {
						t.Fatalf("runs through %d are %v, want %v", e, got, want)
					}
				}
				total := 0
				for extent := range uint32(8) {
					if references[extent] != naive.references[extent] {
						t.Fatalf("%d references on extent %d, want %d", references[extent], extent, naive.references[extent])
					}
					total += references[extent]
				}
				if log.extentCount() != total || log.empty() != (total == 0) {
					t.Fatalf("%d extents, empty %v, want %d", log.extentCount(), log.empty(), total)
				}
			},
		})
	})
}

func (n *naiveTransferLog) record(epoch, off, length uint64) {
	if length == 0 {
		return
	}
	if n.blocks[epoch] == nil {
		n.blocks[epoch] = map[uint64]bool{}
	}
	extents := map[uint32]bool{}
	for block := range n.blocks[epoch] {
		extents[uint32(block*bitmap.BlockBytes/bitmap.ExtentBytes)] = true
	}
	for block := off / bitmap.BlockBytes; block <= (off+length-1)/bitmap.BlockBytes; block++ {
		n.blocks[epoch][block] = true
		if extent := uint32(block * bitmap.BlockBytes / bitmap.ExtentBytes); !extents[extent] {
			extents[extent] = true
			n.references[extent]++
		}
	}
}

func (n *naiveTransferLog) retire(epoch uint64) {
	for e, blocks := range n.blocks {
		if e > epoch {
			continue
		}
		extents := map[uint32]bool{}
		for block := range blocks {
			extents[uint32(block*bitmap.BlockBytes/bitmap.ExtentBytes)] = true
		}
		for extent := range extents {
			n.references[extent]--
		}
		delete(n.blocks, e)
	}
}

func TestTransferLogReusesMemory(t *testing.T) {
	var log transferLog
	ignore := func(uint32) {}
	epoch := uint64(0)
	cycle := func() {
		epoch++
		log.record(epoch, epoch%64<<22, 8192, ignore)
		log.record(epoch, 5<<22, 4096, ignore)
		log.retireThrough(epoch-1, ignore)
	}
	for range 100 {
		cycle()
	}
	if allocations := testing.AllocsPerRun(100, cycle); allocations != 0 {
		t.Errorf("%v allocations per epoch, want 0", allocations)
	}
}

func BenchmarkTransferLogRecord(b *testing.B) {
	ignore := func(uint32) {}
	b.Run("same extent", func(b *testing.B) {
		var log transferLog
		b.ReportAllocs()
		for i := uint64(0); b.Loop(); i++ {
			log.record(7, i%blocksPerExtent*bitmap.BlockBytes, bitmap.BlockBytes, ignore)
		}
	})
	b.Run("1024 extents at random", func(b *testing.B) {
		var log transferLog
		b.ReportAllocs()
		for i := uint64(0); b.Loop(); i++ {
			log.record(7, mixBits(i)%(1<<20)*bitmap.BlockBytes, bitmap.BlockBytes, ignore)
		}
	})
}
