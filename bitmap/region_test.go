package bitmap

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

const sectorBytes = 512

// memoryRegion is a sparse Region in memory that can be told to fail, and that can record what is done to it.
type memoryRegion struct {
	mu     sync.Mutex
	blocks map[int64][]byte // by offset, in blocks of diskBlockBytes
	size   int64
	reads  int

	failWrites error
	failSyncs  error
	onSync     func() // called at the beginning of each sync, without a lock

	recording bool
	ops       []regionOp
}

// regionOp is one recorded write, or a sync if data is nil.
type regionOp struct {
	offset int64
	data   []byte
}

func newMemoryRegion(size int64) *memoryRegion {
	return &memoryRegion{blocks: map[int64][]byte{}, size: size}
}

func (r *memoryRegion) Size() int64 { return r.size }

func (r *memoryRegion) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	if off+int64(len(p)) > r.size || off%diskBlockBytes != 0 || len(p) != diskBlockBytes {
		return 0, io.ErrUnexpectedEOF
	}
	if b := r.blocks[off]; b != nil {
		return copy(p, b), nil
	}
	clear(p)
	return len(p), nil
}

func (r *memoryRegion) WriteAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failWrites != nil {
		return 0, r.failWrites
	}
	if off < 0 || off+int64(len(p)) > r.size || off%diskBlockBytes != 0 || len(p) != diskBlockBytes {
		return 0, errors.New("write is not one block of the region")
	}
	data := bytes.Clone(p)
	r.blocks[off] = data
	if r.recording {
		r.ops = append(r.ops, regionOp{off, data})
	}
	return len(p), nil
}

func (r *memoryRegion) Sync() error {
	r.mu.Lock()
	onSync := r.onSync
	r.mu.Unlock()
	if onSync != nil {
		onSync()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failSyncs != nil {
		return r.failSyncs
	}
	if r.recording {
		r.ops = append(r.ops, regionOp{})
	}
	return nil
}

func (r *memoryRegion) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// clone returns an independent copy that is not recording.
func (r *memoryRegion) clone() *memoryRegion {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := newMemoryRegion(r.size)
	for off, b := range r.blocks {
		c.blocks[off] = b // Blocks are replaced, never changed.
	}
	return c
}

// apply carries out a recorded write on an image.
func (r *memoryRegion) apply(op regionOp) { r.blocks[op.offset] = op.data }

// applyTorn carries out part of a recorded write: each sector may be the old or the new one, or garbage.
func (r *memoryRegion) applyTorn(op regionOp, rng *rand.Rand) {
	b := make([]byte, diskBlockBytes)
	copy(b, r.blocks[op.offset])
	for at := 0; at < diskBlockBytes; at += sectorBytes {
		switch rng.IntN(8) {
		case 0:
			for i := at; i < at+sectorBytes; i++ {
				b[i] = byte(rng.Uint32())
			}
		case 1, 2, 3:
			copy(b[at:at+sectorBytes], op.data[at:])
		}
	}
	r.blocks[op.offset] = b
}

// corrupt flips one bit of the block at an offset.
func (r *memoryRegion) corrupt(off int64, bit int) {
	b := make([]byte, diskBlockBytes)
	copy(b, r.blocks[off])
	b[bit/8] ^= 1 << (bit % 8)
	r.blocks[off] = b
}

// formatted returns a fresh region.
func formatted(t testing.TB, cfg Config) *memoryRegion {
	t.Helper()
	r := newMemoryRegion(RegionBytes(cfg.DeviceBytes, cfg.ALExtents))
	if err := Format(r, cfg); err != nil {
		t.Fatal(err)
	}
	return r
}

// opened opens a region, and closes it unclean at the end of the test unless the test did.
func opened(t testing.TB, r Region, cfg Config, peers SlotMask) (*Store, Recovery) {
	t.Helper()
	s, recovery, err := Open(r, cfg, peers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(false); err != nil && !errors.Is(err, ErrFailed) && !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
	})
	return s, recovery
}

// acquire waits until the extents are granted.
func acquire(t testing.TB, s *Store, first, last uint32) {
	t.Helper()
	if err := acquireErr(s, first, last); err != nil {
		t.Fatal(err)
	}
}

func acquireErr(s *Store, first, last uint32) error {
	if s.TryAcquire(first, last) {
		return nil
	}
	granted := make(chan error, 1)
	s.Acquire(first, last, func(err error) { granted <- err })
	return <-granted
}
