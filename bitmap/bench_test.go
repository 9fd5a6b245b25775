package bitmap

import (
	"sync/atomic"
	"testing"
)

var benchConfig = Config{DeviceBytes: 4 << 40}

func BenchmarkTryAcquireHot(b *testing.B) {
	s, _ := opened(b, formatted(b, benchConfig), benchConfig, AllSlots)
	acquire(b, s, 5, 5)
	s.Release(5, 5)
	b.ReportAllocs()
	for b.Loop() {
		if !s.TryAcquire(5, 5) {
			b.Fatal("not hot")
		}
		s.Release(5, 5)
	}
}

func BenchmarkTryAcquireHotParallel(b *testing.B) {
	s, _ := opened(b, formatted(b, benchConfig), benchConfig, AllSlots)
	acquire(b, s, 0, 63)
	s.Release(0, 63)
	var next atomic.Uint32
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		extent := next.Add(1) % 64
		for pb.Next() {
			if !s.TryAcquire(extent, extent) {
				b.Error("not hot")
				return
			}
			s.Release(extent, extent)
		}
	})
}

// BenchmarkAcquireCold keeps 64 requests waiting, as a queue of random writes does: the cost is shared by group commit.
func BenchmarkAcquireCold(b *testing.B) {
	s, _ := opened(b, formatted(b, benchConfig), benchConfig, AllSlots)
	slots := make(chan struct{}, 64)
	b.ReportAllocs()
	extent := uint32(0)
	for b.Loop() {
		slots <- struct{}{}
		extent = (extent + 7919) % (1 << 20)
		at := extent
		s.Acquire(at, at, func(err error) {
			if err != nil {
				b.Error(err)
			} else {
				s.Release(at, at)
			}
			<-slots
		})
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
	b.ReportMetric(float64(s.Stats().ExtentsMadeHot)/float64(s.Stats().Syncs), "extents/sync")
}

func BenchmarkSet(b *testing.B) {
	s, _ := opened(b, formatted(b, benchConfig), benchConfig, AllSlots)
	b.ReportAllocs()
	block := uint64(0)
	for b.Loop() {
		block = (block + 7919) % (1 << 20)
		s.Set(1, block*BlockBytes, BlockBytes)
	}
}

// BenchmarkNextDirtyScan walks 4 TiB with 4,096 runs of dirty blocks.
func BenchmarkNextDirtyScan(b *testing.B) {
	s, _ := opened(b, formatted(b, benchConfig), benchConfig, AllSlots)
	for i := range uint64(4096) {
		s.Set(1, i<<30, 3*BlockBytes)
	}
	b.ReportAllocs()
	for b.Loop() {
		runs := 0
		for at, count, ok := s.NextDirty(0, 0); ok; at, count, ok = s.NextDirty(0, at+count) {
			runs++
		}
		if runs != 4096 {
			b.Fatalf("%d runs", runs)
		}
	}
}
