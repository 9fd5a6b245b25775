package nbdtest

import (
	"bytes"
	"context"
	"sync"
)

// The shapes of nbd.Batch and nbd.Completion, which this package does not import, so that it stays usable in tests of
// package nbd itself.
type (
	batch = interface {
		Defer(f interface{ Flush() })
		More() bool
	}
	completion = interface {
		Complete(b interface {
			Defer(f interface{ Flush() })
			More() bool
		}, err error)
	}
)

// blockBytes is the granularity in which Memory reports holes.
const blockBytes = 4096

// Memory is a device in memory that completes every request before it returns. What is all zeroes counts as a hole.
type Memory struct {
	mu   sync.RWMutex
	data []byte
}

// NewMemory returns a device of zeroes.
func NewMemory(sizeBytes int) *Memory { return &Memory{data: make([]byte, sizeBytes)} }

// SizeBytes returns the size.
func (m *Memory) SizeBytes() uint64 { return uint64(len(m.data)) }

// Bytes returns a copy of the content.
func (m *Memory) Bytes() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return bytes.Clone(m.data)
}

// Read implements nbd.Device.
func (m *Memory) Read(p []byte, offset uint64, b batch, c completion) {
	m.mu.RLock()
	copy(p, m.data[offset:])
	m.mu.RUnlock()
	c.Complete(b, nil)
}

// Write implements nbd.Device.
func (m *Memory) Write(p []byte, offset uint64, _ bool, b batch, c completion) {
	m.mu.Lock()
	copy(m.data[offset:], p)
	m.mu.Unlock()
	c.Complete(b, nil)
}

// Flush implements nbd.Device.
func (m *Memory) Flush(b batch, c completion) { c.Complete(b, nil) }

// Trim implements nbd.Device: the range reads as zeroes.
func (m *Memory) Trim(offset, length uint64, _ bool, b batch, c completion) {
	m.clear(offset, length)
	c.Complete(b, nil)
}

// Zero implements nbd.Device.
func (m *Memory) Zero(offset, length uint64, _, _, _ bool, b batch, c completion) {
	m.clear(offset, length)
	c.Complete(b, nil)
}

func (m *Memory) clear(offset, length uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.data[offset : offset+length])
}

// Cache implements nbd.Device.
func (m *Memory) Cache(_, _ uint64, b batch, c completion) { c.Complete(b, nil) }

// Extents implements nbd.Device.
func (m *Memory) Extents(ctx context.Context, offset, length uint64, emit func(length uint64, hole, zero bool) error) error {
	for end := offset + length; offset < end; {
		next := min(end, offset-offset%blockBytes+blockBytes)
		m.mu.RLock()
		zero := len(bytes.Trim(m.data[offset:next], "\x00")) == 0
		m.mu.RUnlock()
		if err := emit(next-offset, zero, zero); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		offset = next
	}
	return nil
}
