package bitmap

import "fmt"

// TryAcquire takes a reference on each extent from first to last if all of them are hot. If it returns false it took nothing,
// and the caller needs Acquire. It does no I/O and doesn't allocate.
func (s *Store) TryAcquire(first, last uint32) bool {
	s.logMu.Lock()
	ok := s.log.tryAcquire(first, last)
	s.logMu.Unlock()
	return ok
}

// Acquire makes the extents from first to last hot and takes a reference on each, all or nothing and in order of arrival.
// It never blocks. ready is called exactly once: with nil when the references are taken and the log is durable, so that
// the extents may be written; else with the reason why they must not be. It's called without a lock, from the commit
// loop, which waits for it: it must not block, but may call the Store. Only if the request can never be granted, or the Store is
// closed, it is called before Acquire returns.
func (s *Store) Acquire(first, last uint32, ready func(error)) {
	s.logMu.Lock()
	if err := s.checkExtentsLocked(first, last); err != nil {
		s.logMu.Unlock()
		ready(err)
		return
	}
	if s.ended {
		s.logMu.Unlock()
		ready(s.refusal())
		return
	}
	s.log.enqueue(waiter{first: first, last: last, ready: ready})
	s.logMu.Unlock()
	s.signal()
}

func (s *Store) checkExtentsLocked(first, last uint32) error {
	if first > last || last >= s.g.extents {
		return fmt.Errorf("%w: extents %d to %d of %d", ErrOutOfRange, first, last, s.g.extents)
	}
	if n, most := last-first+1, min(s.g.alExtents, MaxAcquireExtents); n > most {
		return fmt.Errorf("%w: %d, want at most %d", ErrTooManyExtents, n, most)
	}
	return nil
}

// Retain takes another reference on each extent from first to last. The caller must hold one already.
func (s *Store) Retain(first, last uint32) {
	s.logMu.Lock()
	s.log.retain(first, last)
	s.logMu.Unlock()
}

// Release gives back one reference on each extent from first to last. Bits that speak of what was written under this reference
// must have been set before.
func (s *Store) Release(first, last uint32) {
	s.logMu.Lock()
	wake := s.log.release(first, last)
	s.logMu.Unlock()
	if wake {
		s.signal()
	}
}

// Stalled reports whether an Acquire waits because too many extents are held. OnFull is called only when such a wait
// begins; who answers it with a barrier asks here afterwards whether one more is needed.
func (s *Store) Stalled() bool {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.log.stalled
}

// signal wakes the commit loop. One token is enough: the loop looks at everything each time.
func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// refusal returns why nobody may get an extent any more.
func (s *Store) refusal() error {
	if err := s.Err(); err != nil {
		return err
	}
	return ErrClosed
}

// commitLoop owns the queue of the activity log and the ring on disk. Acquire, and a Release that lets the queue go on, wake
// it through s.wake; closing s.quit ends it, after everybody in the queue was told.
func (s *Store) commitLoop() {
	defer close(s.done)
	for {
		select {
		case <-s.wake:
			s.serveQueue()
		case <-s.quit:
			s.logMu.Lock()
			s.ended = true
			refused := s.log.takeQueue()
			s.logMu.Unlock()
			tell(refused, s.refusal())
			return
		}
	}
}

// serveQueue plans and commits until nobody waits, or the first in the queue has to wait for a Release.
func (s *Store) serveQueue() {
	for {
		s.logMu.Lock()
		if s.log.refusing {
			refused := s.log.takeQueue()
			s.logMu.Unlock()
			tell(refused, s.refusal())
			return
		}
		b, fullNow := s.log.plan()
		s.logMu.Unlock()
		if fullNow {
			s.counts.stalls.Add(1)
			s.onFull()
		}
		if len(b.admitted) == 0 {
			return
		}
		tell(b.admitted, s.commit(b))
	}
}

func tell(waiters []waiter, err error) {
	for _, w := range waiters {
		w.ready(err)
	}
}

// commit makes a batch durable: first the bits of what is evicted, then the transactions. The return of the
// second sync is the commit point: only now may the extents be written.
func (s *Store) commit(b batch) error {
	if len(b.updates) == 0 {
		return s.Err()
	}
	s.ringMu.lock()
	defer s.ringMu.unlock()
	if !sabotageEvictUnsaved {
		if err := s.persistEvicted(b.evicted); err != nil {
			return err
		}
	}
	if err := s.writeTransactions(b.updates); err != nil {
		return err
	}
	s.counts.hot.Add(uint64(len(b.updates)))
	s.counts.evictions.Add(uint64(len(b.evicted)))
	s.logMu.Lock()
	s.log.committed(b)
	s.logMu.Unlock()
	return nil
}

// writeTransactions writes as many blocks as the updates need and syncs once.
func (s *Store) writeTransactions(updates []slotUpdate) error {
	for len(updates) > 0 {
		n := min(len(updates), updatesPerBlock)
		position := s.writer.transaction(s.logBuffer, updates[:n])
		if err := s.write(s.logBuffer, s.g.logOffset(position)); err != nil {
			return err
		}
		s.counts.transactions.Add(1)
		updates = updates[n:]
	}
	if sabotageSkipLogSync {
		return nil
	}
	if err := s.sync(); err != nil {
		return err
	}
	s.writer.synced()
	return nil
}
