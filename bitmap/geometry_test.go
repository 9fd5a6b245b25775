package bitmap

import "testing"

func TestGeometryOf4TiB(t *testing.T) {
	g := newGeometry(4<<40, 1024)
	want := geometry{
		deviceBytes: 4 << 40, alExtents: 1024, blocks: 1 << 30, extents: 1 << 20,
		pages: 33826, contextParts: 2, logBlocks: 16, dirBlocks: 17,
	}
	if g != want {
		t.Errorf("got %+v, want %+v", g, want) // docs/ON_DISK_FORMAT.md has the same figures.
	}
	if got, want := RegionBytes(4<<40, 0), int64(16+2*17+8*33826)*4096; got != want {
		t.Errorf("RegionBytes = %d, want %d", got, want)
	}
}

func TestRounding(t *testing.T) {
	const size = 10*BlockBytes + 100
	g := newGeometry(size, 8)
	for _, c := range []struct {
		off, n                 uint64
		outFrom, outTo, in, to uint64
	}{
		{0, 0, 0, 0, 0, 0},
		{0, 1, 0, 1, 0, 0},
		{0, 4096, 0, 1, 0, 1},
		{1, 4096, 0, 2, 1, 1},
		{4095, 2, 0, 2, 1, 1},
		{4096, 8192, 1, 3, 1, 3},
		{4097, 3 * 4096, 1, 5, 2, 4},
		{9 * 4096, 4196, 9, 11, 9, 11},          // to the end, which is within a block
		{9 * 4096, 4195, 9, 11, 9, 10},          // one byte less
		{10 * 4096, 100, 10, 11, 10, 11},        //
		{10*4096 + 1, 99, 10, 11, 11, 11},       //
		{9 * 4096, 1 << 40, 9, 11, 9, 11},       // beyond the end
		{5000, ^uint64(0), 1, 11, 2, 11},        // would overflow
		{size, 1, 0, 0, 0, 0},                   //
		{^uint64(0), ^uint64(0), 0, 0, 0, 0},    //
		{0, size, 0, 11, 0, 11},                 //
		{2 * 4096, 4096 + 4095, 2, 4, 2, 3},     //
		{2*4096 + 4095, 4097, 2, 4, 3, 4},       //
		{2*4096 + 4095, 4096, 2, 4, 3, 3},       //
		{10*4096 + 50, 1 << 20, 10, 11, 11, 11}, //
	} {
		if from, to := g.outward(c.off, c.n); from != c.outFrom || to != c.outTo {
			t.Errorf("outward(%d, %d) = %d, %d, want %d, %d", c.off, c.n, from, to, c.outFrom, c.outTo)
		}
		from, to := g.inward(c.off, c.n)
		if from != c.in && from < to || to != c.to && from < to || (from < to) != (c.in < c.to) {
			t.Errorf("inward(%d, %d) = %d, %d, want %d, %d", c.off, c.n, from, to, c.in, c.to)
		}
	}
}

func TestRegionsDoNotOverlap(t *testing.T) {
	for _, size := range []uint64{1, BlockBytes, ExtentBytes, 31 * ExtentBytes, 31*ExtentBytes + 1, 1 << 40, MaxDeviceBytes} {
		for _, extents := range []int{MinALExtents, 880, 881, 1024, MaxALExtents} {
			g := newGeometry(size, extents)
			next := int64(0)
			expect := func(what string, at int64) {
				if at != next {
					t.Errorf("size %d, log %d: %s is at %d, want %d", size, extents, what, at, next)
				}
			}
			expect("log", g.logOffset(0))
			next = g.logOffset(g.logBlocks-1) + diskBlockBytes
			for dirCopy := range directoryCopies {
				expect("directory", g.directoryOffset(dirCopy, 0))
				next = g.directoryOffset(dirCopy, g.dirBlocks-1) + diskBlockBytes
			}
			for slot := range Slots {
				expect("slot", g.pageOffset(slot, 0))
				next = g.pageOffset(slot, g.pages-1) + diskBlockBytes
			}
			expect("end", g.regionBytes())
			if start, count := g.contextPart(uint64(g.contextParts) - 1); start+count != g.alExtents {
				t.Errorf("log %d: last part of the table is %d+%d", extents, start, count)
			}
		}
	}
}

func TestExtentsOf(t *testing.T) {
	for _, c := range []struct {
		off, n      uint64
		first, last uint32
	}{{0, 1, 0, 0}, {ExtentBytes - 1, 1, 0, 0}, {ExtentBytes - 1, 2, 0, 1}, {ExtentBytes, 64 << 20, 1, 16}} {
		if first, last := ExtentsOf(c.off, c.n); first != c.first || last != c.last {
			t.Errorf("ExtentsOf(%d, %d) = %d, %d, want %d, %d", c.off, c.n, first, last, c.first, c.last)
		}
	}
}
