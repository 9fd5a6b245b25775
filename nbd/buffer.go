package nbd

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"duet/nbd/internal/wire"
)

// Payload buffers come in powers of two. The smallest is a page, because below that a class would save nothing; the
// largest holds the largest request.
const (
	minBufferBytes = 4096
	maxBufferBytes = wire.MaxPayloadBytes
	bufferClasses  = 14 // 4 KiB << 13 = 32 MiB
)

// bufferAlignment makes every buffer fit for O_DIRECT, so that a device never has to copy it.
const bufferAlignment = 4096

// buffer is payload memory of one size class. The data begins at a page boundary.
type buffer struct {
	data  []byte
	class int
}

// buffers lends payload memory of many sizes. How much may be lent at a time is decided before, by a ledger.
type buffers struct {
	classes [bufferClasses]sync.Pool
	lent    atomic.Int64 // buffers that are out, for tests
}

// classOf returns the smallest class that holds n bytes, n being at most maxBufferBytes.
func classOf(n uint32) int {
	if n <= minBufferBytes {
		return 0
	}
	return bits.Len32((n - 1) / minBufferBytes)
}

// classBytes is the capacity of a class.
func classBytes(class int) int64 { return minBufferBytes << class }

// lend returns a buffer for n bytes. Its content is whatever was in it last.
func (p *buffers) lend(n uint32) *buffer {
	class := classOf(n)
	p.lent.Add(1)
	if b, ok := p.classes[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{data: alignedBytes(int(classBytes(class))), class: class}
}

// giveBack takes a buffer that nobody refers to any more.
func (p *buffers) giveBack(b *buffer) {
	p.lent.Add(-1)
	p.classes[b.class].Put(b)
}

// alignedBytes returns n bytes that begin at a page boundary. Go aligns what is larger than a page anyway, but promises
// nothing; only if it did not is more taken.
func alignedBytes(n int) []byte {
	p := make([]byte, n)
	if misalignment(p) == 0 {
		return p
	}
	p = make([]byte, n+bufferAlignment)
	skip := (bufferAlignment - misalignment(p)) % bufferAlignment
	return p[skip : skip+n : skip+n]
}

func misalignment(p []byte) int {
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(p))) % bufferAlignment)
}
