package replication

import (
	"errors"
	"sync"
	"time"
)

// errGivenUp is wrapped by what an operation on a disk that is not used any more returns. The operation itself may still
// be under way: nothing that it was given may be used again.
var errGivenUp = errors.New("the disk is not used any more")

// diskWatch knows every operation that is under way on a disk and its metadata, so that one which does not return can be
// told from one that takes its time, whoever waits for it can be let go, and the disk is closed, or used anew, only when
// the last has returned. The zero value is not ready: newDiskWatch.
type diskWatch struct {
	mu      sync.Mutex
	anchor  diskOperation // of the list, oldest first
	running int
	cause   error         // why nothing begins any more
	gaveUp  chan struct{} // closed with it
	idle    chan struct{} // closed once nothing is under way after that
}

// diskOperation is one operation from its begin to its end.
type diskOperation struct {
	prev, next *diskOperation
	what       string
	since      time.Time
	request    *request // whose leg it is; nil: its caller waits for it in diskWatch.bounded
	batch      Batch    // of the goroutine that does the request's operation; nil: it is a worker
	abandoned  bool     // the request goes on without it
}

// relieved is a Batch whose goroutine reads a connection. Stuck is called when the goroutine does not come back from an
// operation: somebody else has to read on, and to send what was deferred. When the goroutine returns it leaves the Batch
// and the connection alone. Stuck must not block.
type relieved interface{ Stuck() }

func newDiskWatch() *diskWatch {
	w := &diskWatch{gaveUp: make(chan struct{}), idle: make(chan struct{})}
	w.anchor.prev, w.anchor.next = &w.anchor, &w.anchor
	return w
}

// begin notes that op starts; false: the disk is not used any more, and it must not.
func (w *diskWatch) begin(op *diskOperation) bool {
	op.since = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause != nil {
		return false
	}
	op.abandoned = false
	last := w.anchor.prev
	op.prev, op.next = last, &w.anchor
	last.next, w.anchor.prev = op, op
	w.running++
	return true
}

// end notes that op has returned; false: what it was done for has gone on without it, and is not the caller's any more.
func (w *diskWatch) end(op *diskOperation) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	op.prev.next, op.next.prev = op.next, op.prev
	w.running--
	if w.cause != nil && w.running == 0 {
		close(w.idle)
	}
	return !op.abandoned
}

// oldest is what has been under way for longest; "" when nothing is.
func (w *diskWatch) oldest() (what string, age time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running == 0 {
		return "", 0
	}
	op := w.anchor.next
	return op.what, time.Since(op.since)
}

// count is how many operations are under way.
func (w *diskWatch) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running
}

// giveUp ends the use of the disk: nothing begins any more, and whoever waits for an operation goes on. It returns the
// requests whose operation is under way, which are the caller's now, and how many workers are stuck in one. Only the first
// call does anything.
func (w *diskWatch) giveUp(cause error) (left []*request, workers int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause != nil {
		return nil, 0
	}
	w.cause = errors.Join(errGivenUp, cause)
	close(w.gaveUp)
	if w.running == 0 {
		close(w.idle)
	}
	for op := w.anchor.next; op != &w.anchor; op = op.next {
		if op.request == nil {
			continue
		}
		op.abandoned = true
		left = append(left, op.request)
		if b, ok := op.batch.(relieved); ok {
			b.Stuck() // before end can say that it was
		} else {
			workers++
		}
	}
	return left, workers
}

// over says why the disk is not used any more, nil if it is.
func (w *diskWatch) over() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cause
}

// bounded does f on a goroutine of its own, which f ends, and waits for it no longer than the disk is used. When the
// result is errGivenUp, f may still be running.
func (w *diskWatch) bounded(what string, f func() error) error {
	op := &diskOperation{what: what}
	if !w.begin(op) {
		return w.over()
	}
	done := make(chan error, 1)
	go func() {
		err := f()
		w.end(op)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-w.gaveUp:
		return w.over()
	}
}

// watchedDisk is a disk as the rest of the package sees it. Its methods return when the disk is given up, at the latest;
// then what they were given must not be used again. Requests of the write path don't go through them: they call the disk
// itself between begin and end, and are taken from it by giveUp.
type watchedDisk struct {
	disk   Disk
	watch  *diskWatch
	nowait nowaitReader // nil: the disk can't
}

func newWatchedDisk(disk Disk, watch *diskWatch) *watchedDisk {
	d := &watchedDisk{disk: disk, watch: watch}
	d.nowait, _ = disk.(nowaitReader)
	return d
}

// ReadAt implements Disk.
func (d *watchedDisk) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	err := d.watch.bounded("a read", func() error {
		got, err := d.disk.ReadAt(p, off)
		n = got
		return err
	})
	if errors.Is(err, errGivenUp) {
		return 0, err
	}
	return n, err
}

// Sync implements Disk.
func (d *watchedDisk) Sync() error { return d.watch.bounded("a flush", d.disk.Sync) }

// Punch implements Disk.
func (d *watchedDisk) Punch(off, n int64) error {
	return d.watch.bounded("a trim", func() error { return d.disk.Punch(off, n) })
}

// Zero implements Disk.
func (d *watchedDisk) Zero(off, n int64) error {
	return d.watch.bounded("a write of zeroes", func() error { return d.disk.Zero(off, n) })
}

// WriteAt implements Disk.
func (d *watchedDisk) WriteAt(p []byte, off int64) (int, error) {
	return d.write(d.disk.WriteAt, p, off)
}

// WriteDurableAt implements Disk.
func (d *watchedDisk) WriteDurableAt(p []byte, off int64) (int, error) {
	return d.write(d.disk.WriteDurableAt, p, off)
}

func (d *watchedDisk) write(how func(p []byte, off int64) (int, error), p []byte, off int64) (int, error) {
	err := d.watch.bounded("a write", func() error {
		_, err := how(p, off)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close implements Disk. Nothing may be under way.
func (d *watchedDisk) Close() error { return d.disk.Close() }

// extentsAtOnce bounds how many extents are asked for before they are told.
const extentsAtOnce = 1024

// run is a part of what Extents tells.
type extentRun struct {
	n    int64
	hole bool
}

// Extents implements Disk. It tells them on the caller's goroutine.
func (d *watchedDisk) Extents(off, n int64, emit func(n int64, hole bool) error) error {
	for end := off + n; off < end; {
		var runs []extentRun
		err := d.watch.bounded("a look at the extents", func() error {
			var found []extentRun
			err := d.disk.Extents(off, end-off, func(n int64, hole bool) error {
				if found = append(found, extentRun{n, hole}); len(found) == extentsAtOnce {
					return errData
				}
				return nil
			})
			if errors.Is(err, errData) {
				err = nil
			}
			runs = found
			return err
		})
		if err != nil {
			return err
		}
		for _, run := range runs {
			if err := emit(run.n, run.hole); err != nil {
				return err
			}
			off += run.n
		}
		if len(runs) < extentsAtOnce {
			return nil
		}
	}
	return nil
}

// SizeBytes implements Disk.
func (d *watchedDisk) SizeBytes() int64 {
	size := int64(0)
	err := d.watch.bounded("a look at the size", func() error {
		size = d.disk.SizeBytes()
		return nil
	})
	if err != nil {
		return 0
	}
	return size
}

// Tag implements Disk.
func (d *watchedDisk) Tag() (uint64, error) {
	var tag uint64
	err := d.watch.bounded("a look at the attach counter", func() (err error) {
		tag, err = d.disk.Tag()
		return err
	})
	if err != nil {
		return 0, err
	}
	return tag, nil
}

// SetTag implements Disk.
func (d *watchedDisk) SetTag(tag uint64) error {
	return d.watch.bounded("a write of the attach counter", func() error { return d.disk.SetTag(tag) })
}

// ReadNowaitAt implements nowaitReader. It never waits, so nobody has to watch it.
func (d *watchedDisk) ReadNowaitAt(p []byte, off int64) (int, error) {
	if d.nowait == nil {
		return 0, errors.ErrUnsupported
	}
	return d.nowait.ReadNowaitAt(p, off)
}

// watchedMetadata is a metadata file as the rest of the package sees it; like watchedDisk, except that what is written is
// copied first: whoever writes metadata uses its buffers again.
type watchedMetadata struct {
	file  MetadataFile
	watch *diskWatch
}

// ReadAt implements MetadataFile.
func (m *watchedMetadata) ReadAt(p []byte, off int64) (int, error) {
	own, n := make([]byte, len(p)), 0
	err := m.watch.bounded("a read of the metadata", func() error {
		got, err := m.file.ReadAt(own, off)
		n = got
		return err
	})
	if errors.Is(err, errGivenUp) {
		return 0, err
	}
	return copy(p, own[:n]), err
}

// WriteAt implements MetadataFile.
func (m *watchedMetadata) WriteAt(p []byte, off int64) (int, error) {
	own := append([]byte(nil), p...)
	n := 0
	err := m.watch.bounded("a write of the metadata", func() error {
		got, err := m.file.WriteAt(own, off)
		n = got
		return err
	})
	if errors.Is(err, errGivenUp) {
		return 0, err
	}
	return n, err
}

// Sync implements MetadataFile.
func (m *watchedMetadata) Sync() error {
	return m.watch.bounded("a flush of the metadata", m.file.Sync)
}

// Size implements MetadataFile.
func (m *watchedMetadata) Size() int64 { return m.file.Size() }

// Close implements MetadataFile.
func (m *watchedMetadata) Close() error { return m.file.Close() }
