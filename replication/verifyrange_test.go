package replication

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"duet/bitmap"
)

func TestDecodeRangeContent(t *testing.T) {
	hashes := bytes.Repeat([]byte{7}, 2*blockHashBytes)
	for _, tt := range []struct {
		name    string
		h       Header
		payload []byte
		fine    bool
	}{
		{"hashes", Header{Length: 8192}, hashes, true},
		{"too few", Header{Length: 8192}, hashes[:31], false},
		{"too many", Header{Length: 4096}, hashes, false},
		{"none", Header{Length: 8192}, nil, false},
		{"hole", Header{Length: 8192, Flags: FlagHole}, nil, true},
		{"hole with hashes", Header{Length: 8192, Flags: FlagHole}, hashes, false},
		{"long range with data", Header{Length: MaxVerifyHoleBytes}, nil, true},
		{"long range with hashes", Header{Length: MaxVerifyHoleBytes}, hashes, false},
		{"long hole", Header{Length: MaxVerifyHoleBytes, Flags: FlagHole}, nil, true},
		{"failed", Header{Length: 8192, Flags: FlagFailed}, []byte("no\x1b[31m"), true},
		{"part of a block", Header{Length: 4097}, hashes[:16], false},
		{"off the blocks", Header{Offset: 1, Length: 4096}, hashes[:16], false},
	} {
		content, err := decodeRangeContent(&tt.h, tt.payload)
		if (err == nil) != tt.fine || err != nil && !errors.Is(err, errVerifyHashes) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if content.err != nil && strings.Contains(content.err.Error(), "\x1b") {
			t.Errorf("%s: %q may reach a terminal", tt.name, content.err)
		}
	}
}

// FuzzDecodeRangeContent checks that whatever is accepted can be compared without a look beyond its end.
func FuzzDecodeRangeContent(f *testing.F) {
	for _, frame := range exampleFrames() {
		f.Add(encodedFrame(&frame.header, nil), frame.payload)
	}
	f.Fuzz(func(t *testing.T, head, payload []byte) {
		h, err := DecodeHeader(head)
		if err != nil || h.Type != FrameVerifyHashes || int(h.PayloadLength) != len(payload) {
			return
		}
		content, err := decodeRangeContent(&h, payload)
		if err != nil {
			return
		}
		w := verifyRange{off: h.Offset, n: h.Length, theirs: []rangeContent{content}, mine: rangeContent{hole: true}}
		w.compare()
		if w.pieces && h.Length <= MaxVerifyBytes {
			t.Fatalf("%v is to be looked at in pieces", h)
		}
	})
}

func TestBlockMaskRuns(t *testing.T) {
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 2))
		var mask blockMask
		var want, got []int
		for block := range len(mask) * 64 {
			if random.IntN(int(seed)+1) == 0 {
				mask.set(block)
				want = append(want, block)
			}
		}
		last := -1
		mask.runs(func(first, count int) {
			if first <= last {
				t.Fatalf("seed %d: the run at %d touches the one before it", seed, first)
			}
			last = first + count
			for block := first; block < last; block++ {
				got = append(got, block)
			}
		})
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: %v, want %v", seed, got, want)
		}
	}
}

// Only what differs in two looks counts.
func TestVerifyCountsOnlyWhatDiffersTwice(t *testing.T) {
	y := &verification{volume: &Volume{}, ctx: t.Context(), peers: []*verifyPeer{{}}}
	y.volume.sizeBytes.Store(1 << 20)
	y.cursor = 1 << 20
	look := func(w *verifyRange, blocks ...int) {
		t.Helper()
		if len(blocks) > 0 {
			w.differs = make([]blockMask, 1)
			for _, block := range blocks {
				w.differs[0].set(block)
			}
		}
		if err := y.took(w); err != nil {
			t.Fatal(err)
		}
	}
	different := &y.peers[0].different
	look(y.rangeOf(span{0, 1 << 20}, nil), 1, 2, 3)
	if different.added != 0 || y.compared != 0 {
		t.Fatalf("%d bytes differ after one look, %d are compared", different.added, y.compared)
	}
	look(y.next(), 2, 3, 4)
	if want := []span{{2 * bitmap.BlockBytes, 2 * bitmap.BlockBytes}}; !slices.Equal(different.spans, want) || y.compared != 1<<20 {
		t.Fatalf("%v differ, want %v", different.spans, want)
	}
	look(y.rangeOf(span{0, 1 << 20}, nil), 9)
	look(y.next())
	if different.added != 2*bitmap.BlockBytes || y.next() != nil {
		t.Fatalf("%d bytes differ", different.added)
	}
}

// A peer that says what makes no sense loses its session; its verify, at worst.
func TestVerifyFramesOutOfTurn(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.wait("in sync", func() bool { return c.allInSync() && !c.nodes["a"].resource.Status().Suspended })
	generation := c.nodes["a"].resource.Status().Generation
	c.wait("b to follow", func() bool { return c.nodes["b"].resource.Status().Generation == generation })
	for _, tt := range []struct {
		name, to string
		h        Header
		payload  []byte
	}{
		{"hashes that nobody asked for", "a", Header{Type: FrameVerifyHashes, Seq: 99, Length: 4096, Flags: FlagHole}, nil},
		{"part of a block", "b", Header{Type: FrameVerifyRequest, Length: 100, Generation: generation}, nil},
		{"another generation", "b", Header{Type: FrameVerifyRequest, Length: 4096, Generation: generation + 1}, nil},
		{"differences of another generation", "b", Header{Type: FrameVerifyDiffers, Generation: generation + 1}, nil},
		{"differences behind the end", "b", Header{Type: FrameVerifyDiffers, Generation: generation}, []byte{chunkPlain, 0, 0xff, 0xff, 0x7f, 1}},
		{"repair of another generation", "b", Header{Type: FrameVerifyDone, Generation: generation + 1}, []byte(`{"repair":true}`)},
		{"no message", "b", Header{Type: FrameVerifyDone, Generation: generation}, []byte(`[]`)},
	} {
		from := map[string]string{"a": "b", "b": "a"}[tt.to]
		s := c.session(tt.to, from)
		if err := s.handleControl(&tt.h, tt.payload); err == nil {
			t.Errorf("%s: taken", tt.name)
		}
	}
	if sb := c.nodes["b"].resource.superblock(); sb.Inconsistent {
		t.Error("b believes that it is Inconsistent")
	}
}
