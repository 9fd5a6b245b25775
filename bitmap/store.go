package bitmap

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// Region is where a Store keeps its data: a part of a file or of a block device. Sync makes durable everything that was
// written before it was called.
type Region interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Size() int64
}

// Store is an activity log and its bitmaps. All methods are safe for concurrent use.
//
// Its locks, in the order in which they may be taken: ringMu, ioMu, mapMu, logMu. None but the first two is held across I/O. Only Grow
// takes them all: it changes what region and g are.
type Store struct {
	region Region   // read under ringMu or ioMu
	g      geometry // read under any of the locks
	onFull func()

	failure atomic.Pointer[error]
	counts  counters

	logMu sync.Mutex
	log   *activityLog
	ended bool // nobody empties the queue any more

	mapMu  sync.Mutex
	slots  [Slots]*slotBits
	saving map[pageID]struct{} // pages that were snapshotted and may not be durable yet

	// ioMu is held by whoever writes pages or the directory, from the snapshot to the last sync. So two writers of the same page can't
	// overtake each other.
	ioMu          ioLock
	closed        bool // no more writes of pages
	directory     *directory
	sequence      uint64 // of the newest page or directory block
	mirrorPending bool   // copy 1 of the directory was written and not synced
	buffer        []byte

	// writer is the commit loop's while that runs, and the closer's afterwards; both take ringMu.
	ringMu    ioLock
	writer    *logWriter
	logBuffer []byte

	wake      chan struct{} // capacity 1: there may be something to plan
	quit      chan struct{} // closed to end the commit loop
	done      chan struct{} // closed when it has ended
	closeOnce sync.Once
	closeErr  error
}

// Stats counts what a Store has done since it was opened.
type Stats struct {
	Transactions     uint64 // log blocks written
	ExtentsMadeHot   uint64
	Evictions        uint64
	Stalls           uint64 // times a request had to wait because too many extents were held
	PagesWritten     uint64
	DirectoryWritten uint64 // directory blocks, each copy counted
	Syncs            uint64
	HeldExtents      int // now
	Waiting          int // requests in the queue now
}

type counters struct {
	transactions, hot, evictions, stalls, pages, directory, syncs atomic.Uint64
}

// newStore makes a Store with everything clean and cold.
func newStore(r Region, cfg Config) *Store {
	cfg = cfg.withDefaults()
	s := &Store{
		region: r,
		g:      newGeometry(cfg.DeviceBytes, cfg.ALExtents),
		onFull: cfg.OnFull,

		saving:    map[pageID]struct{}{},
		ringMu:    newIOLock(),
		ioMu:      newIOLock(),
		buffer:    make([]byte, diskBlockBytes),
		logBuffer: make([]byte, diskBlockBytes),
		wake:      make(chan struct{}, 1),
		quit:      make(chan struct{}),
		done:      make(chan struct{}),
	}
	s.log = newActivityLog(s.g.alExtents)
	s.directory = newDirectory(&s.g)
	for i := range s.slots {
		s.slots[i] = newSlotBits(&s.g)
	}
	return s
}

// Err returns the reason why the Store has failed, or nil. It never becomes nil again.
func (s *Store) Err() error {
	if p := s.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// fail makes the store failed for good. What was written before a failed sync may be lost although a later sync
// succeeds, so no retry could be believed.
func (s *Store) fail(err error) error {
	wrapped := fmt.Errorf("%w: %w", ErrFailed, err)
	s.failure.CompareAndSwap(nil, &wrapped)
	s.logMu.Lock()
	s.log.refusing = true
	s.logMu.Unlock()
	s.signal()
	return s.Err()
}

// write writes one block to the region.
func (s *Store) write(b []byte, offset int64) error {
	if err := s.Err(); err != nil {
		return err
	}
	n, err := s.region.WriteAt(b, offset)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return s.fail(fmt.Errorf("write at %d: %w", offset, err))
	}
	return nil
}

// sync makes durable what was written.
func (s *Store) sync() error {
	if err := s.Err(); err != nil {
		return err
	}
	s.counts.syncs.Add(1)
	if err := s.region.Sync(); err != nil {
		return s.fail(fmt.Errorf("sync: %w", err))
	}
	return nil
}

// Stats returns what the Store has done so far.
func (s *Store) Stats() Stats {
	s.logMu.Lock()
	held, waiting := s.log.held(), len(s.log.queue)
	s.logMu.Unlock()
	return Stats{
		Transactions:     s.counts.transactions.Load(),
		ExtentsMadeHot:   s.counts.hot.Load(),
		Evictions:        s.counts.evictions.Load(),
		Stalls:           s.counts.stalls.Load(),
		PagesWritten:     s.counts.pages.Load(),
		DirectoryWritten: s.counts.directory.Load(),
		Syncs:            s.counts.syncs.Load(),
		HeldExtents:      held,
		Waiting:          waiting,
	}
}

// MemoryBytes returns about how much memory the Store takes. It is O(1).
func (s *Store) MemoryBytes() int64 {
	const slotOfTable, slotOfIndex = 24, 20
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	total := int64(s.g.alExtents)*(slotOfTable+slotOfIndex+4) + int64(s.g.dirBlocks)*directoryBodyBytes
	for _, slot := range s.slots {
		total += slot.memoryBytes()
	}
	return total
}

// Close ends the Store. Requests that wait get ErrClosed, and it returns only after the commit loop has ended and no write is in
// progress. If clean is true it makes all bitmaps durable and then notes in the log that nothing is hot, so that the next Open has
// nothing to recover; that is refused with ErrBusy while extents are held. If clean is false nothing is written. Only the first
// call has an effect; the others return its result.
func (s *Store) Close(clean bool) error {
	s.closeOnce.Do(func() { s.closeErr = s.close(clean) })
	return s.closeErr
}

func (s *Store) close(clean bool) error {
	s.logMu.Lock()
	s.log.refusing = true
	s.logMu.Unlock()
	close(s.quit)
	<-s.done
	held := s.Stats().HeldExtents

	s.ringMu.lock()
	defer s.ringMu.unlock()
	s.ioMu.lock()
	defer s.ioMu.unlock()
	s.closed = true
	switch err := s.Err(); {
	case !clean:
		return nil
	case err != nil:
		return err
	case held > 0:
		return fmt.Errorf("%w: %d extents", ErrBusy, held)
	}
	if err := s.persist(s.changedPages(AllSlots)); err != nil {
		return err
	}
	return s.writeReset()
}

// writeReset notes durably that no extent is hot.
func (s *Store) writeReset() error {
	position := s.writer.reset(s.logBuffer)
	if err := s.write(s.logBuffer, s.g.logOffset(position)); err != nil {
		return err
	}
	if err := s.sync(); err != nil {
		return err
	}
	s.writer.synced()
	return nil
}

// readBlock reads one block of the region. A short read is an error like any other: the region's size was checked.
func readBlock(r io.ReaderAt, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read at %d: %w", offset, err)
}
