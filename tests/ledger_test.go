package tests

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"duet/nbd/nbdclient"
)

const (
	// sectorBytes is what a power cut leaves whole.
	sectorBytes     = 512
	sectorsPerBlock = blockBytes / sectorBytes
)

// ledger is a load for power cuts. For every block it knows which writes were sent, in their order, up to which they
// are acknowledged and up to which an acknowledged FLUSH or FUA covers them. After whatever happens, a sector may hold
// the newest write that was promised or any that was sent after it, and nothing else.
//
// Every block belongs to one worker and has one write in flight at most.
type ledger struct {
	workers    int
	flushEvery int // a FLUSH follows whenever so many writes were acknowledged
	fuaEvery   int // one write in so many has FUA; 0: none

	mu       sync.Mutex
	blocks   []blockLedger
	number   uint64 // of the newest write
	writes   int    // acknowledged
	flushes  int    // acknowledged
	progress chan struct{}
}

// blockLedger is what is known of one block. A write that leaves zeroes has number 0.
type blockLedger struct {
	initial      [sectorsPerBlock]uint64 // what was there before the first of sent
	sent         []uint64
	acknowledged int // so many of sent, from the beginning, are acknowledged
	flushed      int // so many are covered by a FLUSH or FUA
}

// promise says which writes must be there.
type promise int

const (
	promiseFlushed      promise = iota // those that a FLUSH or FUA covers: enough after the loss of all page caches
	promiseAcknowledged                // all that were acknowledged: as long as one in-sync replica kept its cache
)

func newLedger(blockCount int) *ledger {
	return &ledger{workers: 8, flushEvery: 40, blocks: make([]blockLedger, blockCount), progress: make(chan struct{})}
}

// send notes that a write is about to be sent and returns its number.
func (g *ledger) send(block int, zeroes bool) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.number++
	number := g.number
	if zeroes {
		number = 0
	}
	g.blocks[block].sent = append(g.blocks[block].sent, number)
	return number
}

// answered notes that the newest write of the block was acknowledged.
func (g *ledger) answered(block int, fua bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := &g.blocks[block]
	b.acknowledged = len(b.sent)
	if fua {
		b.flushed = b.acknowledged
	}
	g.writes++
	g.advanced()
}

// covered is what a FLUSH that is sent now will cover.
func (g *ledger) covered() []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	covered := make([]int, len(g.blocks))
	for i := range g.blocks {
		covered[i] = g.blocks[i].acknowledged
	}
	return covered
}

// flushed notes that the FLUSH was acknowledged.
func (g *ledger) flushed(covered []int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.blocks {
		g.blocks[i].flushed = max(g.blocks[i].flushed, covered[i])
	}
	g.flushes++
	g.advanced()
}

// advanced wakes those who wait for progress; g.mu is held.
func (g *ledger) advanced() {
	close(g.progress)
	g.progress = make(chan struct{})
}

// counts is how much was acknowledged, and a channel that the next acknowledgement closes.
func (g *ledger) counts() (writes, flushes int, next <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.writes, g.flushes, g.progress
}

// allowed is whether a sector may hold a write.
func (b *blockLedger) allowed(p promise, sector int, number uint64) bool {
	floor := b.flushed
	if p == promiseAcknowledged {
		floor = b.acknowledged
	}
	if floor == 0 {
		return number == b.initial[sector] || slices.Contains(b.sent, number)
	}
	return slices.Contains(b.sent[floor-1:], number)
}

// check reads every block from the server at uri and compares it with what was promised.
func (g *ledger) check(t *testing.T, uri string, p promise) error {
	t.Helper()
	return g.read(t, uri, func(block, sector int, number uint64) error {
		b := &g.blocks[block]
		if b.allowed(p, sector, number) {
			return nil
		}
		return fmt.Errorf("block %d, sector %d holds write %d; before were %d, sent were %v, of which the first %d are "+
			"acknowledged and %d flushed", block, sector, number, b.initial[sector], b.sent, b.acknowledged, b.flushed)
	})
}

// settle makes what is there durable, and what is expected from now on.
func (g *ledger) settle(t *testing.T, uri string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	client := dial(t, uri)
	if err := client.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	err := g.read(t, uri, func(block, sector int, number uint64) error {
		if sector == 0 {
			g.blocks[block] = blockLedger{}
		}
		g.blocks[block].initial[sector] = number
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// read calls visit with the number in every sector of the device.
func (g *ledger) read(t *testing.T, uri string, visit func(block, sector int, number uint64) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), resyncTimeout)
	defer cancel()
	client := dial(t, uri)
	g.mu.Lock()
	defer g.mu.Unlock()
	p := make([]byte, blockBytes)
	for block := range g.blocks {
		if err := client.Read(ctx, p, uint64(block)*blockBytes); err != nil {
			return fmt.Errorf("read block %d: %w", block, err)
		}
		for sector := range sectorsPerBlock {
			number, err := readSector(p[sector*sectorBytes:][:sectorBytes], block)
			if err == nil {
				err = visit(block, sector, number)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// readSector returns the number of the write that a sector is of, 0 for zeroes.
func readSector(p []byte, block int) (uint64, error) {
	number := binary.LittleEndian.Uint64(p[8:])
	if number != 0 && binary.LittleEndian.Uint64(p) != uint64(block) {
		return 0, fmt.Errorf("block %d holds data of block %d", block, binary.LittleEndian.Uint64(p))
	}
	want := make([]byte, sectorBytes)
	if number != 0 {
		fillBlock(want, uint64(block), number)
	}
	if i := firstDifference(p, want); i >= 0 {
		return 0, fmt.Errorf("block %d has a sector that was never written: byte %d of it is %#x", block, i, p[i])
	}
	return number, nil
}

// ledgerLoad is a ledger's load at work.
type ledgerLoad struct {
	*ledger
	ctx      context.Context // ends with the test, and at the first failure
	stopping chan struct{}   // closed to ask the workers to end
	done     chan struct{}   // closed when all have ended
	err      error           // why the first ended, valid after done; nil when they were asked to
}

// begin starts the workers, and one who flushes, against the server at uri. They share two connections: a FLUSH covers
// what was acknowledged on any. They end with the test, when the connections are lost, or by end.
func (g *ledger) begin(t *testing.T, uri string) *ledgerLoad {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &ledgerLoad{ledger: g, ctx: ctx, stopping: make(chan struct{}), done: make(chan struct{})}
	clients := []*nbdclient.Client{dial(t, uri), dial(t, uri)}
	failures := make(chan error, g.workers+1)
	for worker := range g.workers {
		go func() { failures <- l.write(clients[worker%2], worker) }()
	}
	go func() { failures <- l.flush(clients[1]) }()
	// This goroutine owns the end of the load: the first failure ends it for everybody, and it ends when everybody has.
	go func() {
		defer close(l.done)
		for range g.workers + 1 {
			if err := <-failures; err != nil && l.err == nil {
				l.err = err
				cancel()
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-l.done
	})
	return l
}

// write writes random blocks of this worker, one at a time, until it is asked to stop or a write fails.
func (l *ledgerLoad) write(client *nbdclient.Client, worker int) error {
	p := make([]byte, blockBytes)
	for {
		select {
		case <-l.stopping:
			return nil
		default:
		}
		block := rand.IntN(len(l.blocks)/l.workers)*l.workers + worker
		r := nbdclient.Request{Op: nbdclient.Write, OffsetBytes: uint64(block) * blockBytes}
		switch rand.IntN(16) {
		case 0:
			r.Op = nbdclient.Trim
		case 1:
			r.Op = nbdclient.Zero
		}
		r.FUA = l.fuaEvery > 0 && rand.IntN(l.fuaEvery) == 0
		if number := l.send(block, r.Op != nbdclient.Write); r.Op == nbdclient.Write {
			fillBlock(p, uint64(block), number)
			r.Data = p
		} else {
			r.LengthBytes = blockBytes
		}
		if err := client.Do(l.ctx, r); err != nil {
			return fmt.Errorf("%v of block %d: %w", r.Op, block, err)
		}
		l.answered(block, r.FUA)
	}
}

// flush sends a FLUSH whenever enough writes were acknowledged since the last.
func (l *ledgerLoad) flush(client *nbdclient.Client) error {
	for {
		covered := l.covered()
		if err := client.Flush(l.ctx); err != nil {
			return err
		}
		l.flushed(covered)
		if !l.reach(l.flushEvery, 0) {
			return nil
		}
	}
}

// reach waits until so many more writes and flushes are acknowledged; false when the load ends before.
func (l *ledgerLoad) reach(writes, flushes int) bool {
	nowWrites, nowFlushes, next := l.counts()
	wantWrites, wantFlushes := nowWrites+writes, nowFlushes+flushes
	for nowWrites < wantWrites || nowFlushes < wantFlushes {
		select {
		case <-l.stopping:
			return false
		case <-l.ctx.Done():
			return false
		case <-next:
		}
		nowWrites, nowFlushes, next = l.counts()
	}
	return true
}

// wait is reach with a time limit, for the test itself.
func (l *ledgerLoad) wait(t *testing.T, writes, flushes int) {
	t.Helper()
	reached := make(chan bool, 1)
	go func() { reached <- l.reach(writes, flushes) }() // ends with the load at the latest
	select {
	case ok := <-reached:
		if !ok {
			<-l.done
			t.Fatalf("the load ended: %v", l.err)
		}
	case <-time.After(settleTimeout):
		t.Fatalf("no %d writes and %d flushes in %v", writes, flushes, settleTimeout)
	}
}

// end asks the load to stop and waits for the answers to what is in flight.
func (l *ledgerLoad) end(t *testing.T) {
	t.Helper()
	close(l.stopping)
	select {
	case <-l.done:
		if l.err != nil {
			t.Fatal(l.err)
		}
	case <-time.After(settleTimeout):
		t.Fatalf("writes are without an answer for %v", settleTimeout)
	}
}

func TestLedgerKnowsWhatWasPromised(t *testing.T) {
	b := blockLedger{initial: [sectorsPerBlock]uint64{3: 9}, sent: []uint64{10, 0, 12, 13}, acknowledged: 3}
	tests := []struct {
		name    string
		flushed int
		promise promise
		number  uint64
		want    bool
	}{
		{"nothing flushed, as before", 0, promiseFlushed, 9, true},
		{"nothing flushed, never sent", 0, promiseFlushed, 8, false},
		{"nothing flushed, not answered", 0, promiseFlushed, 13, true},
		{"flushed", 2, promiseFlushed, 0, true},
		{"before the flushed one", 2, promiseFlushed, 10, false},
		{"as before, though flushed", 2, promiseFlushed, 9, false},
		{"after the flushed one", 2, promiseFlushed, 12, true},
		{"acknowledged", 2, promiseAcknowledged, 12, true},
		{"not answered", 2, promiseAcknowledged, 13, true},
		{"flushed, and a newer one was acknowledged", 2, promiseAcknowledged, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := b
			b.flushed = tt.flushed
			if got := b.allowed(tt.promise, 3, tt.number); got != tt.want {
				t.Errorf("write %d allowed: %v", tt.number, got)
			}
		})
	}
}

func TestFlushCoversWhatWasAcknowledgedBefore(t *testing.T) {
	g := newLedger(2)
	g.send(0, false)
	g.answered(0, false)
	g.send(1, false)
	covered := g.covered()
	g.answered(1, false)
	g.flushed(covered)
	if g.blocks[0].flushed != 1 || g.blocks[1].flushed != 0 {
		t.Errorf("the FLUSH covers %d and %d writes", g.blocks[0].flushed, g.blocks[1].flushed)
	}
}

func TestReadSectorFindsWhatWasNeverWritten(t *testing.T) {
	p := make([]byte, blockBytes)
	fillBlock(p, 5, 77)
	sector := p[sectorBytes : 2*sectorBytes]
	if number, err := readSector(sector, 5); err != nil || number != 77 {
		t.Errorf("got %d, %v", number, err)
	}
	if _, err := readSector(sector, 6); err == nil {
		t.Error("data of another block were accepted")
	}
	sector[100]++
	if _, err := readSector(sector, 5); err == nil {
		t.Error("a damaged sector was accepted")
	}
	clear(sector)
	if number, err := readSector(sector, 5); err != nil || number != 0 {
		t.Errorf("zeroes are %d, %v", number, err)
	}
}
