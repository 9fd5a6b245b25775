package quorum

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// deadlineStore stands between Raft and its log. Raft sends heartbeats beside its disk writes on purpose, so a leader
// whose disk hangs would stay leader for ever and commit nothing. Here a write that fails or takes longer than the
// deadline fails the store: Raft gets an error and steps down, and nothing is written to the store again, since nobody
// knows what the write that is still under way will do.
//
// Reads go through, also after a failure: what they return was written before.
type deadlineStore struct {
	log      raft.LogStore
	stable   raft.StableStore
	deadline time.Duration

	writes chan storeWrite
	stop   chan struct{} // closed by close
	ended  chan struct{} // closed by the loop when it ends

	failOnce sync.Once
	failed   chan struct{} // closed by the first failure
	cause    error         // set before failed is closed
	stopOnce sync.Once
}

type storeWrite struct {
	run  func() error
	done chan error // has room for the answer, so that the loop never waits for a caller that has given up
}

func newDeadlineStore(log raft.LogStore, stable raft.StableStore, deadline time.Duration) *deadlineStore {
	s := &deadlineStore{
		log: log, stable: stable, deadline: deadline,
		writes: make(chan storeWrite), stop: make(chan struct{}), ended: make(chan struct{}), failed: make(chan struct{}),
	}
	go s.writeLoop()
	return s
}

// writeLoop does the writes, one at a time. It owns the write side of the inner store, is woken by write, and ends
// with close; a write that never returns keeps it for ever, which is what it is for.
func (s *deadlineStore) writeLoop() {
	defer close(s.ended)
	for {
		select {
		case w := <-s.writes:
			w.done <- w.run()
		case <-s.stop:
			return
		}
	}
}

func (s *deadlineStore) write(what string, run func() error) error {
	if err := s.err(); err != nil {
		return err
	}
	w := storeWrite{run: run, done: make(chan error, 1)}
	timer := time.NewTimer(s.deadline)
	defer timer.Stop()
	select {
	case s.writes <- w:
	case <-s.failed:
		return s.err()
	case <-s.stop:
		return ErrClosed
	case <-timer.C:
		return s.fail(fmt.Errorf("%w: %s waited more than %s for the write before it", ErrStore, what, s.deadline))
	}
	select {
	case err := <-w.done:
		if err != nil {
			return s.fail(fmt.Errorf("%w: %s: %w", ErrStore, what, err))
		}
		return nil
	case <-timer.C:
		return s.fail(fmt.Errorf("%w: %s took more than %s", ErrStore, what, s.deadline))
	}
}

// fail makes err, or the failure that came before it, final.
func (s *deadlineStore) fail(err error) error {
	s.failOnce.Do(func() {
		s.cause = err
		close(s.failed)
	})
	return s.err()
}

// err returns why the store failed; nil if it did not.
func (s *deadlineStore) err() error {
	select {
	case <-s.failed:
		return s.cause
	default:
		return nil
	}
}

// close ends the loop and waits for it, but no longer than the deadline: a write may never return.
func (s *deadlineStore) close() error {
	s.stopOnce.Do(func() { close(s.stop) })
	timer := time.NewTimer(s.deadline)
	defer timer.Stop()
	select {
	case <-s.ended:
		return nil
	case <-timer.C:
		return s.fail(fmt.Errorf("%w: a write never ended", ErrStore))
	}
}

// StoreLog implements raft.LogStore.
func (s *deadlineStore) StoreLog(entry *raft.Log) error { return s.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (s *deadlineStore) StoreLogs(entries []*raft.Log) error {
	return s.write("append", func() error { return s.log.StoreLogs(entries) })
}

// DeleteRange implements raft.LogStore.
func (s *deadlineStore) DeleteRange(first, last uint64) error {
	return s.write("truncate", func() error { return s.log.DeleteRange(first, last) })
}

// Set implements raft.StableStore.
func (s *deadlineStore) Set(key, value []byte) error {
	return s.write("store vote", func() error { return s.stable.Set(key, value) })
}

// SetUint64 implements raft.StableStore. Raft panics when it can't store its term, which would take down a daemon
// that serves a volume and needs no vote to go on. So the goroutine that must not go on without this write ends here:
// its deferred calls answer what is pending (a vote is not granted), and the Node shuts the rest of Raft down.
func (s *deadlineStore) SetUint64(key []byte, value uint64) error {
	if err := s.write("store term", func() error { return s.stable.SetUint64(key, value) }); err != nil {
		runtime.Goexit()
	}
	return nil
}

// FirstIndex implements raft.LogStore.
func (s *deadlineStore) FirstIndex() (uint64, error) { return s.log.FirstIndex() }

// LastIndex implements raft.LogStore.
func (s *deadlineStore) LastIndex() (uint64, error) { return s.log.LastIndex() }

// GetLog implements raft.LogStore.
func (s *deadlineStore) GetLog(index uint64, into *raft.Log) error { return s.log.GetLog(index, into) }

// Get implements raft.StableStore.
func (s *deadlineStore) Get(key []byte) ([]byte, error) { return s.stable.Get(key) }

// GetUint64 implements raft.StableStore.
func (s *deadlineStore) GetUint64(key []byte) (uint64, error) { return s.stable.GetUint64(key) }
