package replication

import (
	"math/bits"
	"sync"
	"unsafe"
)

// Payload buffers are pooled by size class, from 4 KiB to 32 MiB, and start on a page boundary so that a disk opened
// for direct I/O can use them without a copy.
const (
	smallestBufferShift = 12
	largestBufferShift  = 25
	bufferAlignment     = 4096
)

// buffer is a pooled payload.
type buffer struct {
	p     []byte
	class int
}

// bufferPool hands out payload buffers.
type bufferPool struct {
	classes [largestBufferShift - smallestBufferShift + 1]sync.Pool
}

// get returns a buffer of exactly n bytes, 0 < n <= 32 MiB; its content is arbitrary.
func (bp *bufferPool) get(n int) *buffer {
	class := 0
	if n > 1<<smallestBufferShift {
		class = bits.Len(uint(n-1)) - smallestBufferShift
	}
	b, ok := bp.classes[class].Get().(*buffer)
	if !ok {
		b = &buffer{p: alignedBytes(1 << (class + smallestBufferShift)), class: class}
	}
	b.p = b.p[:n]
	return b
}

// put gives b back; nobody may hold its bytes any more.
func (bp *bufferPool) put(b *buffer) {
	if b == nil {
		return
	}
	b.p = b.p[:cap(b.p)]
	bp.classes[b.class].Put(b)
}

// alignedBytes allocates n bytes that start on a page boundary.
func alignedBytes(n int) []byte {
	raw := make([]byte, n+bufferAlignment)
	skip := 0
	if rest := int(uintptr(unsafe.Pointer(&raw[0])) % bufferAlignment); rest != 0 {
		skip = bufferAlignment - rest
	}
	return raw[skip : skip+n : skip+n]
}
