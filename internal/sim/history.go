package sim

import (
	"encoding/binary"
	"fmt"
	"sync"

	"duet/tests/register"
)

// kind is what a client did.
type kind uint8

const (
	kindRead kind = iota
	kindWrite
	kindFlush
)

// noAnswer is the end of an operation whose outcome the client never learned. It may have happened, or happen later.
const noAnswer = register.NoAnswer

// event is an operation of a client on one block, or a flush. Begin and end are positions in the one order of all events.
type event struct {
	kind       kind
	block      int64
	value      uint64               // written: unique, or 0 for zeroes
	sectors    [blockSectors]uint64 // read
	begin, end int64
	durable    bool   // a write with FUA
	server     string // the process that was asked, and when, for a report
}

// loss is a moment at which what no flush covered may have been lost: power was gone wherever it was.
type loss struct{ at int64 }

// history is what the clients of one run saw.
type history struct {
	mu     sync.Mutex
	clock  int64
	values uint64
	events []*event
	losses []loss
}

// now is the next position in the order of events.
func (h *history) now() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	return h.clock
}

// begin enters operations that begin at the same moment.
func (h *history) begin(events ...*event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	for _, e := range events {
		e.begin, e.end = h.clock, noAnswer
		h.events = append(h.events, e)
	}
}

// end enters their answer.
func (h *history) end(events ...*event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	for _, e := range events {
		e.end = h.clock
	}
}

func (h *history) newValue() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values++
	return h.values
}

const blockSectors = pageBytes / sectorBytes

// fill writes a value into a block, in each of its sectors, so that a mixture is seen.
func fill(p []byte, block int64, value uint64) {
	for at := 0; at < len(p); at += sectorBytes {
		binary.LittleEndian.PutUint64(p[at:], value)
		binary.LittleEndian.PutUint64(p[at+8:], uint64(block))
	}
}

// values reads them back. A sector that belongs elsewhere is an error.
func values(p []byte, block int64) (found [blockSectors]uint64, err error) {
	for i := range found {
		at := i * sectorBytes
		found[i] = binary.LittleEndian.Uint64(p[at:])
		if of := int64(binary.LittleEndian.Uint64(p[at+8:])); found[i] != 0 && of != block {
			return found, fmt.Errorf("block %d, sector %d has what was written to block %d", block, i, of)
		}
	}
	return found, nil
}
