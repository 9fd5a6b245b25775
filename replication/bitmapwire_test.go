package replication

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"pgregory.net/rapid"

	"duet/bitmap"
)

// runSource is a bitmap as ascending runs {start, end}; it returns long ones in parts, as a real one does.
type runSource struct {
	runs [][2]uint64
	part uint64
}

func (s *runSource) NextDirty(_ int, from uint64) (start, count uint64, ok bool) {
	at, found := slices.BinarySearchFunc(s.runs, from, func(run [2]uint64, from uint64) int {
		if run[1] > from {
			return 1
		}
		return -1
	})
	if found || at == len(s.runs) {
		return 0, 0, false
	}
	start = max(from, s.runs[at][0])
	return start, min(s.part, s.runs[at][1]-start), true
}

var _ dirtySource = (*bitmap.Store)(nil)

// exchange sends src in chunks and returns what arrives.
func exchange(t interface{ Fatalf(string, ...any) }, src dirtySource, total uint64) (runs [][2]uint64, chunks int) {
	for from, done := uint64(0), false; !done; {
		payload, next, last, err := encodeBitmapChunk(src, 0, from, total)
		if err != nil || next < from || !last && next == from {
			t.Fatalf("chunk from %d: next %d, %v", from, next, err)
		}
		if len(payload) > MaxBitmapChunkBytes {
			t.Fatalf("a chunk of %d bytes", len(payload))
		}
		err = decodeBitmapChunk(payload, total, func(start, count uint64) { runs = append(runs, [2]uint64{start, start + count}) })
		if err != nil {
			t.Fatalf("decode: %v", err)
		}
		chunks++
		from, done = next, last
	}
	return runs, chunks
}

func TestBitmapExchange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := &runSource{part: rapid.Uint64Range(1, 100).Draw(t, "part")}
		end := uint64(0)
		for range rapid.IntRange(0, 60).Draw(t, "runs") {
			start := end + rapid.Uint64Range(1, 1<<rapid.IntRange(1, 20).Draw(t, "scale")).Draw(t, "gap")
			end = start + rapid.Uint64Range(1, 500).Draw(t, "length")
			src.runs = append(src.runs, [2]uint64{start, end})
		}
		if got, _ := exchange(t, src, end+rapid.Uint64Range(0, 1000).Draw(t, "rest")); !slices.Equal(got, src.runs) {
			t.Fatalf("%d runs arrived, want %d", len(got), len(src.runs))
		}
	})
}

func TestBitmapExchangeOfExtremes(t *testing.T) {
	const total = 1 << 30 // blocks of 4 TiB
	everyOther := &runSource{part: 1}
	for block := uint64(1); block < 1<<20; block += 2 {
		everyOther.runs = append(everyOther.runs, [2]uint64{block, block + 1})
	}
	random := &runSource{part: 8}
	for end := uint64(0); len(random.runs) < 300000; {
		start := end + 1 + mixBits(uint64(len(random.runs)+1))%4000
		end = start + 1
		random.runs = append(random.runs, [2]uint64{start, end})
	}
	for _, test := range []struct {
		name   string
		src    *runSource
		chunks int
	}{
		{"clean", &runSource{part: 1}, 1},
		{"all dirty", &runSource{runs: [][2]uint64{{0, total}}, part: 31744}, 1},
		{"first and last block", &runSource{runs: [][2]uint64{{0, 1}, {total - 1, total}}, part: 1}, 1},
		{"every other block", everyOther, 5},
		{"random blocks", random, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, chunks := exchange(t, test.src, total)
			if !slices.Equal(got, test.src.runs) || chunks != test.chunks {
				t.Errorf("%d runs in %d chunks arrived, want %d in %d", len(got), chunks, len(test.src.runs), test.chunks)
			}
		})
	}
}

func TestBitmapChunkLeavesOutWhatIsBehindTheEnd(t *testing.T) {
	src := &runSource{runs: [][2]uint64{{5, 20}, {30, 40}}, part: 100}
	if got, _ := exchange(t, src, 10); !slices.Equal(got, [][2]uint64{{5, 10}}) {
		t.Errorf("runs %v arrived", got)
	}
	if _, _, _, err := encodeBitmapChunk(src, 0, 11, 10); err == nil {
		t.Error("encoded from behind the end")
	}
}

func TestBitmapChunkGolden(t *testing.T) {
	sparse := &runSource{runs: [][2]uint64{{3, 4}, {1000, 1300}, {1 << 29, 1<<29 + 1}}, part: 64}
	regular := &runSource{part: 1}
	for block := uint64(0); block < 400; block += 2 {
		regular.runs = append(regular.runs, [2]uint64{block, block + 1})
	}
	var out strings.Builder
	for _, example := range []struct {
		name string
		src  *runSource
	}{{"3, 1000-1299, 2^29", sparse}, {"every even block below 400", regular}} {
		payload, _, _, err := encodeBitmapChunk(example.src, 0, 0, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "blocks %s\n%s\n", example.name, dumpBytes(payload))
	}
	compareGolden(t, "bitmapchunks.golden", []byte(out.String()))
}

func TestDecodeBitmapChunkErrors(t *testing.T) {
	bomb := append([]byte{chunkS2}, s2.Encode(nil, make([]byte, 64<<20))...)
	for name, payload := range map[string][]byte{
		"unknown method":       {7, 0},
		"no first block":       {chunkPlain},
		"first block too high": {chunkPlain, 101},
		"gap too high":         {chunkPlain, 50, 51, 1},
		"length too high":      {chunkPlain, 50, 10, 41},
		"empty run":            {chunkPlain, 0, 1, 0},
		"no length":            {chunkPlain, 0, 1},
		"number cut off":       {chunkPlain, 0, 0x80},
		"number above 64 bits": {chunkPlain, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"too long":             make([]byte, maxBitmapPlainBytes+2),
		"expands to 64 MiB":    bomb,
		"claims to be huge":    {chunkS2, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"not compressed data":  {chunkS2, 5, 1, 2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			err := decodeBitmapChunk(payload, 100, func(start, count uint64) {
				if count == 0 || start+count > 100 {
					t.Errorf("set %d+%d", start, count)
				}
			})
			if !errors.Is(err, errBitmapChunk) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func FuzzDecodeBitmapChunk(f *testing.F) {
	f.Add([]byte{chunkPlain, 3, 1, 2, 5, 1}, uint64(100))
	f.Add(append([]byte{chunkS2}, s2.Encode(nil, []byte{0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})...), uint64(1<<30))
	f.Fuzz(func(t *testing.T, payload []byte, total uint64) {
		end := uint64(0)
		err := decodeBitmapChunk(payload, total, func(start, count uint64) {
			if count == 0 || start < end || start > total || count > total-start {
				t.Fatalf("set %d+%d after %d of %d", start, count, end, total)
			}
			end = start + count
		})
		if err != nil && !errors.Is(err, errBitmapChunk) {
			t.Fatalf("error is %v", err)
		}
	})
}

func BenchmarkBitmapChunk(b *testing.B) {
	random := &runSource{part: 8}
	for end := uint64(0); len(random.runs) < 60000; {
		start := end + 1 + mixBits(uint64(len(random.runs)+1))%4000
		end = start + 1
		random.runs = append(random.runs, [2]uint64{start, end})
	}
	for b.Loop() {
		payload, _, _, err := encodeBitmapChunk(random, 0, 0, 1<<30)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(payload)), "bytes")
	}
}
