package replication

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"

	"duet/bitmap"
)

// pattern builds blocks: z zero, d data; in hashes: h the hash of the source's block, x another.
func pattern(blocks string) []byte {
	p := make([]byte, len(blocks)*bitmap.BlockBytes)
	for i, kind := range blocks {
		if kind == 'd' {
			p[i*bitmap.BlockBytes+i] = byte(i + 1)
		}
	}
	return p
}

func hashPattern(p []byte, equal string) []byte {
	var hashes []byte
	for i, kind := range equal {
		hash := sha256.Sum256(p[i*bitmap.BlockBytes:][:bitmap.BlockBytes])
		if kind != 'h' {
			hash[31] ^= 1 // the last bit counts as well
		}
		hashes = append(hashes, hash[:]...)
	}
	return hashes
}

func TestCutPieces(t *testing.T) {
	const b = bitmap.BlockBytes
	for _, test := range []struct {
		blocks, equal string
		want          []piece
	}{
		{"d", "", []piece{{pieceData, 0, b}}},
		{"z", "", []piece{{pieceZero, 0, b}}},
		{"ddzzd", "", []piece{{pieceData, 0, 2 * b}, {pieceZero, 2 * b, 2 * b}, {pieceData, 4 * b, b}}},
		{"zdz", "", []piece{{pieceZero, 0, b}, {pieceData, b, b}, {pieceZero, 2 * b, b}}},
		{"dd", "hh", []piece{{pieceSame, 0, 2 * b}}},
		{"dd", "xh", []piece{{pieceData, 0, b}, {pieceSame, b, b}}},
		{"zz", "hx", []piece{{pieceSame, 0, b}, {pieceZero, b, b}}},
		{"dzdz", "hhxx", []piece{{pieceSame, 0, 2 * b}, {pieceData, 2 * b, b}, {pieceZero, 3 * b, b}}},
	} {
		t.Run(test.blocks+" "+test.equal, func(t *testing.T) {
			p := pattern(test.blocks)
			var hashes []byte
			if test.equal != "" {
				hashes = hashPattern(p, test.equal)
			}
			if got := cutPieces(nil, p, hashes); !slices.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
			if !slices.ContainsFunc(test.want, func(p piece) bool { return p.kind == pieceData }) && !bytes.ContainsRune([]byte(test.blocks), 'd') {
				if got := cutHole(nil, uint64(len(p)), hashes); !slices.Equal(got, test.want) {
					t.Errorf("as a hole %v, want %v", got, test.want)
				}
			}
		})
	}
}

func TestHashBlocksFitsCutPieces(t *testing.T) {
	p := pattern("dzdd")
	if got := cutPieces(nil, p, hashBlocks(p)); len(got) != 1 || got[0] != (piece{pieceSame, 0, uint64(len(p))}) {
		t.Errorf("%v", got)
	}
}

func TestWholePieceForAPeerWithoutPieces(t *testing.T) {
	for blocks, want := range map[string]pieceKind{"zz": pieceZero, "dd": pieceData, "dz": pieceData} {
		p := pattern(blocks)
		got := wholePiece(cutPieces(nil, p, nil), uint64(len(p)))
		if len(got) != 1 || got[0] != (piece{want, 0, uint64(len(p))}) {
			t.Errorf("%s: %v", blocks, got)
		}
	}
}

// TestCompareChoiceGivesUp counts how many of a thousand requests carry hashes.
func TestCompareChoiceGivesUp(t *testing.T) {
	for _, test := range []struct {
		name     string
		same     uint64
		min, max int
	}{
		{"all is equal", 256, 1000, 1000}, {"enough is equal", 16, 1000, 1000},
		{"little is equal", 15, 5, 25}, {"nothing is equal", 0, 5, 25},
	} {
		var c compareChoice
		compared := 0
		for range 1000 {
			if c.next() {
				compared++
				c.learn(test.same, 256)
			}
		}
		if compared < test.min || compared > test.max {
			t.Errorf("%s: %d comparisons", test.name, compared)
		}
	}
}

func TestFeaturesAreWhatBothHave(t *testing.T) {
	if got := allFeatures.with(allFeatures.names()); got != allFeatures {
		t.Errorf("two of this version have %+v", got)
	}
	if got := (features{pieces: true, zstd: true}).with([]string{"zstd", "later"}); got != (features{zstd: true}) {
		t.Errorf("%+v", got)
	}
	if got := (features{}).with(allFeatures.names()); got != (features{}) || got.names() != nil {
		t.Errorf("%+v", got)
	}
}
