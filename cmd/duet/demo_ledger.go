package main

import (
	"fmt"
	"sync"
	"time"
)

// blockLedger knows what the load was promised: of every block, which version was acknowledged last and which was issued
// last. A block has one write in flight at most, so those two are all that it may hold.
type blockLedger struct {
	mu      sync.Mutex
	blocks  []blockPromise
	version uint64 // the last one issued, of any block

	acknowledged uint64 // writes
	lastAck      time.Time
	longestPause time.Duration
}

type blockPromise struct {
	acknowledged, issued uint64 // versions; 0: never written
	busy                 bool   // a write is in flight
}

func newBlockLedger(blockCount int) *blockLedger {
	return &blockLedger{blocks: make([]blockPromise, blockCount)}
}

// issue begins a write of a run of blocks and returns its version. It returns false where a block can't be written,
// since a write of it is in flight or was never answered.
func (l *blockLedger) issue(first uint64, count int) (version uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	run := l.blocks[first : first+uint64(count)]
	for i := range run {
		if run[i].busy || run[i].acknowledged != run[i].issued {
			return 0, false
		}
	}
	l.version++
	for i := range run {
		run[i].busy, run[i].issued = true, l.version
	}
	return l.version, true
}

// answer ends a write. Without an acknowledgement it is unknown what the blocks hold, until settle has seen them.
func (l *blockLedger) answer(first uint64, count int, acknowledged bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	run := l.blocks[first : first+uint64(count)]
	for i := range run {
		run[i].busy = false
		if acknowledged {
			run[i].acknowledged = run[i].issued
		}
	}
	if !acknowledged {
		return
	}
	now := time.Now()
	if !l.lastAck.IsZero() {
		l.longestPause = max(l.longestPause, now.Sub(l.lastAck))
	}
	l.lastAck = now
	l.acknowledged++
}

// settle checks what a block was found to hold, and takes it for what the block holds from now on.
func (l *blockLedger) settle(block, found uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	promise := &l.blocks[block]
	switch {
	case promise.busy:
		return fmt.Errorf("block %d is read while it is written: the demonstration itself is wrong", block)
	case found < promise.acknowledged:
		return fmt.Errorf("block %d holds version %d, but version %d was acknowledged", block, found, promise.acknowledged)
	case found != promise.acknowledged && found != promise.issued:
		return fmt.Errorf("block %d holds version %d, which was never written to it", block, found)
	}
	promise.acknowledged, promise.issued = found, found
	return nil
}

// expected returns the version a block must hold, once it is settled.
func (l *blockLedger) expected(block uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.blocks[block].acknowledged
}

// count returns the number of acknowledged writes.
func (l *blockLedger) count() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acknowledged
}

// markPause begins the measurement that pause returns.
func (l *blockLedger) markPause() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastAck, l.longestPause = time.Now(), 0
}

// pause returns the longest time between two acknowledgements since markPause.
func (l *blockLedger) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.longestPause
}

// unanswered returns the number of blocks with a write that was issued and not acknowledged.
func (l *blockLedger) unanswered() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := 0
	for i := range l.blocks {
		if l.blocks[i].acknowledged != l.blocks[i].issued {
			count++
		}
	}
	return count
}
