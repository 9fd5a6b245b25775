package replication

import (
	"bytes"
	"crypto/sha256"

	"duet/bitmap"
)

// compareHashBytes is the length of a block's hash. The hash decides whether a block is copied at all, and nothing looks at
// the bytes again. So it has to be one for which nobody can make a collision, not even who chooses what is written.
const compareHashBytes = sha256.Size

// zeroBlock is what a hole reads as, zeroHash its hash.
var (
	zeroBlock [bitmap.BlockBytes]byte
	zeroHash  = sha256.Sum256(zeroBlock[:])
)

// pieceKind is how a run of blocks travels.
type pieceKind uint8

const (
	pieceData pieceKind = iota
	pieceZero
	pieceSame
)

// frame is the type of the frame that carries the piece.
func (k pieceKind) frame() FrameType {
	return [...]FrameType{FrameResyncData, FrameResyncZero, FrameResyncSame}[k]
}

// piece is a part of the answer to one request of a target.
type piece struct {
	kind   pieceKind
	off, n uint64 // within the range of the request
}

// cutPieces appends the pieces that p is to be sent in: what equals the target's hashes, what is zero, and the rest.
// Neighbours of one kind are one piece. Without hashes nothing equals.
func cutPieces(pieces []piece, p, hashes []byte) []piece {
	for off := 0; off < len(p); off += bitmap.BlockBytes {
		block := p[off:min(off+bitmap.BlockBytes, len(p))]
		kind := pieceData
		switch zero := bytes.Equal(block, zeroBlock[:len(block)]); {
		case hashes != nil && sameBlock(block, zero, hashes[off/bitmap.BlockBytes*compareHashBytes:]):
			kind = pieceSame
		case zero:
			kind = pieceZero
		}
		pieces = addPiece(pieces, piece{kind, uint64(off), uint64(len(block))})
	}
	return pieces
}

// cutHole is cutPieces for n bytes of a hole.
func cutHole(pieces []piece, n uint64, hashes []byte) []piece {
	if hashes == nil {
		return append(pieces, piece{pieceZero, 0, n})
	}
	for off := uint64(0); off < n; off += bitmap.BlockBytes {
		kind := pieceZero
		if bytes.Equal(zeroHash[:], hashes[off/bitmap.BlockBytes*compareHashBytes:][:compareHashBytes]) {
			kind = pieceSame
		}
		pieces = addPiece(pieces, piece{kind, off, min(bitmap.BlockBytes, n-off)})
	}
	return pieces
}

func sameBlock(block []byte, zero bool, hash []byte) bool {
	mine := zeroHash
	if !zero {
		mine = sha256.Sum256(block)
	}
	return bytes.Equal(mine[:], hash[:compareHashBytes])
}

func addPiece(pieces []piece, next piece) []piece {
	if last := len(pieces) - 1; last >= 0 && pieces[last].kind == next.kind {
		pieces[last].n += next.n
		return pieces
	}
	return append(pieces, next)
}

// wholePiece is the answer for a peer that takes one frame only.
func wholePiece(pieces []piece, n uint64) []piece {
	if len(pieces) == 1 && pieces[0].kind == pieceZero {
		return pieces
	}
	return append(pieces[:0], piece{pieceData, 0, n})
}

// hashBlocks returns the hashes of the blocks of p.
func hashBlocks(p []byte) []byte {
	hashes := make([]byte, 0, len(p)/bitmap.BlockBytes*compareHashBytes)
	for ; len(p) > 0; p = p[bitmap.BlockBytes:] {
		hash := zeroHash
		if block := p[:bitmap.BlockBytes]; !bytes.Equal(block, zeroBlock[:]) {
			hash = sha256.Sum256(block)
		}
		hashes = append(hashes, hash[:]...)
	}
	return hashes
}

// compareChoice decides which requests carry hashes. Where nothing is equal they are work for nothing, so after each
// disappointment there are more requests without them.
type compareChoice struct{ skip, pause int }

const (
	firstComparePause = 4
	lastComparePause  = 64
	// worthwhileShare: comparing goes on while one block of so many is equal.
	worthwhileShare = 16
)

// next reports whether the next request is to carry hashes.
func (c *compareChoice) next() bool {
	if c.skip > 0 {
		c.skip--
		return false
	}
	return true
}

// learn takes the outcome of a comparison.
func (c *compareChoice) learn(same, total uint64) {
	if same*worthwhileShare >= total {
		c.skip, c.pause = 0, 0
		return
	}
	if c.skip == 0 {
		c.pause = min(max(firstComparePause, 2*c.pause), lastComparePause)
		c.skip = c.pause
	}
}
