package crash

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Recorder records what a run does to a medium.
type Recorder struct {
	mu      sync.Mutex
	initial *Image
	live    *Image // with everything done, durable or not
	ops     []Op
}

// NewRecorder begins a run on a medium on which initial is durable.
func NewRecorder(initial *Image) *Recorder {
	return &Recorder{initial: initial.Clone(), live: initial.Clone()}
}

// Resume begins the run of another process on the medium as it is after the first n operations of r: the process that
// did them was killed, and nothing is lost as long as there is power.
func (r *Recorder) Resume(n int) *Recorder {
	again := NewRecorder(r.initial)
	for _, op := range r.Ops()[:n] {
		again.record(op)
	}
	return again
}

// Ops returns what was recorded.
func (r *Recorder) Ops() []Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ops)
}

// Image returns the medium as the running process sees it.
func (r *Recorder) Image() *Image {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live.Clone()
}

// Mark records that something has happened that a crash from then on must not undo.
func (r *Recorder) Mark(format string, args ...any) {
	r.record(Op{Kind: Mark, Name: fmt.Sprintf(format, args...)})
}

func (r *Recorder) record(op Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recordLocked(op)
}

func (r *Recorder) recordLocked(op Op) {
	op.Apply(r.live)
	r.ops = append(r.ops, op)
}

// addLocked adds a file or directory that nothing names yet. It is as good as durable: without a name it can't be seen.
func (r *Recorder) addLocked(o *object) int {
	number := r.live.add(o)
	for r.initial.next < r.live.next {
		copied := Image{objects: map[int]*object{0: o}}
		r.initial.add(copied.Clone().objects[0])
	}
	return number
}

// Forget returns the operations with marks in place of those that pick chooses, as if the code under test forgot them.
func Forget(ops []Op, pick func(Op) bool) []Op {
	ops = slices.Clone(ops)
	for i, op := range ops {
		if pick(op) {
			ops[i] = Op{Kind: Mark, Name: "forgotten: " + op.String()}
		}
	}
	return ops
}

// Syncs picks the syncs of one file or directory, for Forget.
func Syncs(object int) func(Op) bool {
	return func(op Op) bool { return op.Kind == Sync && op.Object == object }
}

// Region is a file that is used as a bounded piece of storage.
type Region struct {
	recorder *Recorder
	file     int
}

// Region returns the file of that number for reading and recorded writing.
func (r *Recorder) Region(file int) *Region { return &Region{r, file} }

// ReadAt implements io.ReaderAt.
func (g *Region) ReadAt(p []byte, off int64) (int, error) {
	g.recorder.mu.Lock()
	defer g.recorder.mu.Unlock()
	return g.recorder.live.Content(g.file).ReadAt(p, off)
}

// WriteAt implements io.WriterAt. A region does not grow.
func (g *Region) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > g.Size() {
		return 0, fmt.Errorf("write of %d bytes at %d: %w", len(p), off, io.ErrShortWrite)
	}
	g.recorder.record(Op{Kind: Write, Object: g.file, Offset: off, Data: bytes.Clone(p)})
	return len(p), nil
}

// Sync makes everything written before it durable.
func (g *Region) Sync() error {
	g.recorder.record(Op{Kind: Sync, Object: g.file})
	return nil
}

// SetAttribute gives the file an attribute; a Sync makes it durable.
func (g *Region) SetAttribute(value string) {
	g.recorder.record(Op{Kind: Attribute, Object: g.file, Name: value})
}

// Attribute is what SetAttribute left; "" if nothing.
func (g *Region) Attribute() string {
	g.recorder.mu.Lock()
	defer g.recorder.mu.Unlock()
	return g.recorder.live.Attribute(g.file)
}

// Size is the length in bytes.
func (g *Region) Size() int64 {
	g.recorder.mu.Lock()
	defer g.recorder.mu.Unlock()
	return g.recorder.live.Content(g.file).Size()
}

// Close does nothing: what is not synced stays so.
func (g *Region) Close() error { return nil }
