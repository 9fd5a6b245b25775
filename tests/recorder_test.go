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

// blockBytes is the unit of the recorded load.
const blockBytes = 4096

// recorder is a load that knows what it was promised: which write of every block was the last to be acknowledged, and
// which were sent after it without an answer. After whatever happens to the cluster, verify tells whether each block
// holds the acknowledged write or one of the unanswered newer ones. Anything else is a lost or a torn write.
//
// Every block belongs to one worker and has one write in flight at most, so its writes have an order.
type recorder struct {
	firstBlock, blockCount uint64
	workers                int
	earlier                *recorder // another, whose writes may be found where this one has none that was acknowledged

	mu           sync.Mutex
	blocks       map[uint64]*blockHistory
	lastNumber   uint64
	acknowledged int
	lastAck      time.Time
	longestPause time.Duration
}

// blockHistory is what is known of one block. Number 0 stands for zeroes: never written.
type blockHistory struct {
	acknowledged uint64
	unanswered   []uint64
}

// newRecorder makes a load on the given blocks of a device.
func newRecorder(firstBlock, blockCount uint64) *recorder {
	return &recorder{firstBlock: firstBlock, blockCount: blockCount, workers: 8, blocks: make(map[uint64]*blockHistory)}
}

// load is a recorder at work.
type load struct {
	*recorder
	stopping chan struct{} // closed to ask the workers to end
	done     chan struct{} // closed when all workers have ended
	err      error         // why the first worker ended, valid after done; nil when it was asked to
}

// begin starts the workers against the server at uri, which share two connections. It ends with the test, when the
// connections are lost, or by end.
func (r *recorder) begin(t *testing.T, uri string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{recorder: r, stopping: make(chan struct{}), done: make(chan struct{})}
	r.markPause()
	clients := []*nbdclient.Client{dial(t, uri), dial(t, uri)}
	failures := make(chan error, r.workers)
	for worker := range r.workers {
		go func() { failures <- l.work(ctx, clients[worker%len(clients)], uint64(worker)) }()
	}
	// This goroutine owns the end of the load: it ends when every worker has.
	go func() {
		defer close(l.done)
		for range r.workers {
			if err := <-failures; err != nil && l.err == nil {
				l.err = err
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-l.done
	})
	return l
}

// end asks the load to stop, waits for the answers to what is in flight, and returns the first error a worker met.
func (l *load) end() error {
	close(l.stopping)
	select {
	case <-l.done:
		return l.err
	case <-time.After(settleTimeout):
		return fmt.Errorf("writes are without an answer for %v", settleTimeout)
	}
}

// work writes random blocks of this worker, one at a time, until it is asked to stop or a write fails. When ctx ends
// so does the connection, and with it what is in flight: a hung server does not hang the test.
func (l *load) work(ctx context.Context, client *nbdclient.Client, worker uint64) error {
	own := l.blockCount / uint64(l.workers)
	p := make([]byte, blockBytes)
	for {
		select {
		case <-l.stopping:
			return nil
		default:
		}
		block := l.firstBlock + rand.Uint64N(own)*uint64(l.workers) + worker
		number := l.send(block)
		fillBlock(p, block, number)
		if err := client.Write(ctx, p, block*blockBytes); err != nil {
			return fmt.Errorf("write block %d: %w", block, err)
		}
		l.answered(block, number)
	}
}

// send notes that a write is about to be sent and returns its number.
func (r *recorder) send(block uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastNumber++
	h := r.blocks[block]
	if h == nil {
		h = new(blockHistory)
		r.blocks[block] = h
	}
	h.unanswered = append(h.unanswered, r.lastNumber)
	return r.lastNumber
}

// answered notes that a write was acknowledged: from here on, losing it is a failure.
func (r *recorder) answered(block, number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.blocks[block]
	h.acknowledged, h.unanswered = number, nil
	r.acknowledged++
	now := time.Now()
	r.longestPause = max(r.longestPause, now.Sub(r.lastAck))
	r.lastAck = now
}

// count is how many writes were acknowledged.
func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acknowledged
}

// markPause starts a new measurement of the longest time without an acknowledgement.
func (r *recorder) markPause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastAck, r.longestPause = time.Now(), 0
}

// pause is the longest time without an acknowledgement since markPause.
func (r *recorder) pause() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.longestPause
}

// touched is how many blocks were written at least once.
func (r *recorder) touched() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return uint64(len(r.blocks))
}

// verify reads every block that was ever written and compares it with what was promised. What it finds becomes what is
// expected from then on: a write that was not answered may be there or not, but that must not change later.
func (r *recorder) verify(t *testing.T, uri string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), resyncTimeout)
	defer cancel()
	client := dial(t, uri)
	if err := r.check(ctx, client); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

func (r *recorder) check(ctx context.Context, client *nbdclient.Client) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := make([]byte, blockBytes)
	for block, h := range r.blocks {
		if err := client.Read(ctx, p, block*blockBytes); err != nil {
			return fmt.Errorf("read block %d: %w", block, err)
		}
		number, err := readBlock(p, block)
		if err != nil {
			return err
		}
		if r.earlier != nil && h.acknowledged == 0 && r.earlier.blocks[block] != nil {
			continue // it may hold what was there before; only unanswered writes have gone to it since
		}
		if err := h.settle(block, number); err != nil {
			return err
		}
	}
	return nil
}

// settle judges what was found in a block.
func (h *blockHistory) settle(block, number uint64) error {
	if number != h.acknowledged && !slices.Contains(h.unanswered, number) {
		return fmt.Errorf("block %d holds write %d; write %d was acknowledged, unanswered are %v",
			block, number, h.acknowledged, h.unanswered)
	}
	h.acknowledged, h.unanswered = number, nil
	return nil
}

// fillBlock writes pairs of block and number all over p, so that a torn or misplaced block can be told.
func fillBlock(p []byte, block, number uint64) {
	for i := 0; i < len(p); i += 16 {
		binary.LittleEndian.PutUint64(p[i:], block)
		binary.LittleEndian.PutUint64(p[i+8:], number)
	}
}

// readBlock returns the number that fillBlock wrote, 0 for zeroes.
func readBlock(p []byte, block uint64) (uint64, error) {
	first := [2]uint64{binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])}
	for i := 0; i < len(p); i += 16 {
		here := [2]uint64{binary.LittleEndian.Uint64(p[i:]), binary.LittleEndian.Uint64(p[i+8:])}
		if here != first {
			return 0, fmt.Errorf("block %d is torn at byte %d: %v after %v", block, i, here, first)
		}
	}
	if first[1] != 0 && first[0] != block {
		return 0, fmt.Errorf("block %d holds data of block %d", block, first[0])
	}
	return first[1], nil
}

// waitWrites waits until so many more writes were acknowledged. The load must not end meanwhile.
func (l *load) waitWrites(t *testing.T, more int) {
	t.Helper()
	target := l.count() + more
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(settleTimeout)
	for l.count() < target {
		select {
		case <-l.done:
			t.Fatalf("the load ended: %v", l.err)
		case <-deadline:
			t.Fatalf("no %d writes in %v", more, settleTimeout)
		case <-ticker.C:
		}
	}
}

func TestRecorderFindsLostWrites(t *testing.T) {
	tests := []struct {
		name    string
		history blockHistory
		content uint64
		wrong   bool
	}{
		{"the acknowledged write", blockHistory{acknowledged: 7}, 7, false},
		{"an unanswered newer one", blockHistory{acknowledged: 7, unanswered: []uint64{8, 9}}, 9, false},
		{"an older one", blockHistory{acknowledged: 7}, 6, true},
		{"nothing", blockHistory{acknowledged: 7}, 0, true},
		{"nothing, and nothing was acknowledged", blockHistory{unanswered: []uint64{1}}, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := tt.history
			err := h.settle(3, tt.content)
			if (err != nil) != tt.wrong {
				t.Errorf("err = %v, wrong = %v", err, tt.wrong)
			}
		})
	}
}

func TestReadBlockFindsTornAndMisplacedBlocks(t *testing.T) {
	p := make([]byte, blockBytes)
	fillBlock(p, 5, 77)
	if number, err := readBlock(p, 5); err != nil || number != 77 {
		t.Errorf("got %d, %v", number, err)
	}
	if _, err := readBlock(p, 6); err == nil {
		t.Error("data of another block were accepted")
	}
	fillBlock(p[2048:], 5, 76)
	if _, err := readBlock(p, 5); err == nil {
		t.Error("a torn block was accepted")
	}
}
