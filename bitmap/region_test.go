package bitmap

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"

	"duet/internal/crash"
)

// memoryRegion is a sparse Region in memory that can be told to fail, and that can record what is done to it.
type memoryRegion struct {
	mu      sync.Mutex
	content *crash.Content
	size    int64
	reads   int

	failWrites error
	failSyncs  error
	onSync     func() // called at the beginning of each sync, without a lock

	recording bool
	ops       []crash.Op
}

func newMemoryRegion(size int64) *memoryRegion {
	return &memoryRegion{content: crash.NewContent(size), size: size}
}

func (r *memoryRegion) Size() int64 { return r.size }

func (r *memoryRegion) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	if off+int64(len(p)) > r.size || off%diskBlockBytes != 0 || len(p) != diskBlockBytes {
		return 0, io.ErrUnexpectedEOF
	}
	return r.content.ReadAt(p, off)
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
	op := crash.Op{Kind: crash.Write, Offset: off, Data: bytes.Clone(p)}
	r.apply(op)
	if r.recording {
		r.ops = append(r.ops, op)
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
		r.ops = append(r.ops, crash.Op{Kind: crash.Sync})
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
	return &memoryRegion{content: r.content.Clone(), size: r.size}
}

// apply carries out a recorded write on an image.
func (r *memoryRegion) apply(op crash.Op) { r.content.Put(op.Data, op.Offset) }

// block returns a copy of the block at an offset.
func (r *memoryRegion) block(off int64) []byte {
	b := make([]byte, diskBlockBytes)
	if _, err := r.content.ReadAt(b, off); err != nil {
		panic(err) // a test that looks where nothing is
	}
	return b
}

// isWrite tells a recorded write from a sync.
func isWrite(op crash.Op) bool { return op.Kind == crash.Write }

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
