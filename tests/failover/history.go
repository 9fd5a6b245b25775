package failover

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// server is a daemon's process: the node and how often it was started.
type server struct {
	node    string
	process int
}

// operation is what a client asked of one block, and what became of it. Times count from the beginning of the history.
type operation struct {
	server     server
	block      uint64
	value      uint64 // written, or read
	write      bool
	answered   bool
	begin, end time.Duration // without an answer the end is when the client gave it up
}

// String describes an operation in a report.
func (o operation) String() string {
	what := "read"
	if o.write {
		what = "write"
	}
	end := "given up"
	if o.answered {
		end = "answered"
	}
	return fmt.Sprintf("[%v, %s %v] %s of %d at %s.%d", o.begin, end, o.end, what, o.value, o.server.node, o.server.process)
}

// tenure is a time in which one node was Primary, by the cluster's record.
type tenure struct {
	node       string
	generation uint64 // its first
}

// history is what all clients saw since it was judged last, and what that judgement must still know.
type history struct {
	start  time.Time
	blocks uint64

	mu         sync.Mutex
	operations []operation
	number     uint64        // of the newest write
	writes     int           // answered, in all
	reads      int           // likewise
	lastWrite  time.Duration // answered
	pause      time.Duration // the longest between two answered writes, since it was asked for
	watches    []*watch

	content []uint64    // of each block, when it was judged last
	open    []operation // unanswered writes that may still happen
	tenure  int         // of the newest answer that was judged
}

// watch waits for the first answer to a write that was begun after a moment, from another server.
type watch struct {
	after time.Duration
	not   string // node
	found chan operation
}

func newHistory(blocks uint64) *history {
	return &history{start: time.Now(), blocks: blocks, content: make([]uint64, blocks)}
}

// now is the time that has passed. It never stands still for long enough to have two operations at one moment in the wrong order.
func (h *history) now() time.Duration { return time.Since(h.start) }

// nextNumber is a value that was never written before.
func (h *history) nextNumber() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.number++
	return h.number
}

// add enters an operation that has ended.
func (h *history) add(o operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o.write || o.answered {
		h.operations = append(h.operations, o)
	}
	switch {
	case !o.answered:
	case o.write:
		h.writes++
		h.pause = max(h.pause, o.end-h.lastWrite)
		h.lastWrite = max(h.lastWrite, o.end)
		h.tell(o)
	default:
		h.reads++
	}
}

// tell wakes those who wait for such an answer; h.mu is held.
func (h *history) tell(o operation) {
	h.watches = slices.DeleteFunc(h.watches, func(w *watch) bool {
		if o.begin < w.after || o.server.node == w.not {
			return false
		}
		w.found <- o
		return true
	})
}

// watch returns where the first answered write arrives that was begun from now on, at any other node than the given one.
func (h *history) watch(not string) <-chan operation {
	w := &watch{after: h.now(), not: not, found: make(chan operation, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watches = append(h.watches, w)
	return w.found
}

// counts is how many writes and reads were answered.
func (h *history) counts() (writes, reads int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.writes, h.reads
}

// beginPause forgets the pauses until now.
func (h *history) beginPause() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastWrite, h.pause = h.now(), 0
}

// longestPause is the longest time without an answered write since beginPause, one that lasts included.
func (h *history) longestPause() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return max(h.pause, h.now()-h.lastWrite)
}

// quiet is for how long no write has been answered.
func (h *history) quiet() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now() - h.lastWrite
}
