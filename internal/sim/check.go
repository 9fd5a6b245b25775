package sim

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// checkLimit bounds the search for an order of one block's operations.
const checkLimit = 30 * time.Second

// check reports what in the history no single disk could have answered: every block is a register whose
// acknowledged writes happen between begin and end, and a moment of loss may take back only what no flush covered.
func (h *history) check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	blocks := map[int64][]*event{}
	var flushes []*event
	for _, e := range h.events {
		if e.kind == kindFlush {
			flushes = append(flushes, e)
			continue
		}
		blocks[e.block] = append(blocks[e.block], e)
	}
	for block, events := range blocks {
		c := blockCheck{block: block, events: events, flushes: flushes, losses: h.losses}
		if err := c.run(); err != nil {
			return err
		}
	}
	return nil
}

// blockCheck is the check of one block.
type blockCheck struct {
	block   int64
	events  []*event
	flushes []*event
	losses  []loss
}

// run checks the block as a whole, or sector by sector if a mixture was read: a write that was not acknowledged may be
// there in part.
func (c *blockCheck) run() error {
	torn := slices.ContainsFunc(c.events, func(e *event) bool {
		return e.kind == kindRead && slices.ContainsFunc(e.sectors[:], func(v uint64) bool { return v != e.sectors[0] })
	})
	if !torn {
		return c.runSector(0)
	}
	for sector := range blockSectors {
		if err := c.runSector(sector); err != nil {
			return err
		}
	}
	return nil
}

// runSector checks one era after the other: from one loss to the next.
func (c *blockCheck) runSector(sector int) error {
	bounds := []int64{0}
	for _, l := range c.losses {
		bounds = append(bounds, l.at)
	}
	bounds = append(bounds, math.MaxInt64)
	for i := range len(bounds) - 1 {
		if err := c.runEra(sector, bounds[i], bounds[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (c *blockCheck) runEra(sector int, from, to int64) error {
	read := map[uint64]bool{}
	for _, e := range c.events {
		if e.kind == kindRead && e.end != noAnswer {
			read[e.sectors[sector]] = true
		}
	}
	var operations []porcupine.Operation
	for i, e := range c.events {
		begin, end := e.begin, e.end
		if begin < from && end >= from || begin < to && end >= to {
			end = noAnswer // done before the loss, perhaps, with an answer that was under way
		}
		switch {
		case end == noAnswer && (e.kind == kindRead || !read[e.value]):
			continue // whether it happened makes no difference to anybody
		case begin >= to || end < from:
			continue
		}
		input := step{write: e.kind == kindWrite, value: e.value}
		if e.kind == kindRead {
			input.value = e.sectors[sector]
		}
		operations = append(operations, porcupine.Operation{ClientId: i, Input: input, Call: max(begin, from), Return: end})
	}
	model := register(c.possible(from))
	switch result, info := porcupine.CheckOperationsVerbose(model, operations, checkLimit); result {
	case porcupine.Illegal:
		return fmt.Errorf("block %d, sector %d: no order explains what was read since %d; %s", c.block, sector, from, c.explain(operations, from, info))
	case porcupine.Unknown:
		return fmt.Errorf("block %d, sector %d: no verdict in %v on %d operations", c.block, sector, checkLimit, len(operations))
	}
	return nil
}

// possible is what the block may hold after a loss: what was there in the beginning, and each write, unless one that
// began after it had ended was made stable before the loss.
func (c *blockCheck) possible(at int64) []uint64 {
	if at == 0 {
		return []uint64{0}
	}
	newest := int64(0) // begin of the newest write that is certainly stable
	for _, e := range c.events {
		if e.kind == kindWrite && e.end < at && c.stable(e, at) {
			newest = max(newest, e.begin)
		}
	}
	var found []uint64
	if newest == 0 {
		found = append(found, 0)
	}
	for _, e := range c.events {
		if e.kind == kindWrite && e.begin < at && e.end >= newest && !slices.Contains(found, e.value) {
			found = append(found, e.value)
		}
	}
	return found
}

// stable reports whether a flush covered the write before anything could be lost.
func (c *blockCheck) stable(w *event, at int64) bool {
	for _, l := range c.losses {
		if l.at > w.begin {
			at = min(at, l.at)
		}
	}
	if w.durable {
		return w.end < at
	}
	return slices.ContainsFunc(c.flushes, func(f *event) bool { return f.begin > w.end && f.end < at })
}

// step is an operation on a register.
type step struct {
	write bool
	value uint64
}

// register is a block that holds one of some values in the beginning.
func register(initial []uint64) porcupine.Model {
	model := porcupine.NondeterministicModel{
		Init: func() []any {
			var states []any
			for _, v := range initial {
				states = append(states, v)
			}
			return states
		},
		Step: func(state, input, _ any) []any {
			s := input.(step)
			switch {
			case s.write:
				return []any{s.value}
			case s.value == state.(uint64):
				return []any{state}
			}
			return nil
		},
		Equal: func(a, b any) bool { return a == b },
	}
	return model.ToModel()
}

// explain lists what the search had to order, and what else happened to the block.
func (c *blockCheck) explain(operations []porcupine.Operation, from int64, info porcupine.LinearizationInfo) string {
	text := fmt.Sprintf("possible at first: %v", c.possible(from))
	for _, partial := range info.PartialLinearizationsOperations() {
		longest := 0
		for _, sequence := range partial {
			longest = max(longest, len(sequence))
		}
		text += fmt.Sprintf("; the longest order has %d of %d operations", longest, len(operations))
	}
	all := append(slices.Clone(c.events), c.flushes...)
	slices.SortFunc(all, func(a, b *event) int { return int(a.begin - b.begin) })
	for _, l := range c.losses {
		text += fmt.Sprintf("\n  loss at %d", l.at)
	}
	for _, e := range all {
		if e.kind != kindFlush || e.end != noAnswer {
			text += "\n  " + e.String()
		}
	}
	return text
}

// String describes an event in a report.
func (e *event) String() string {
	end := fmt.Sprint(e.end)
	if e.end == noAnswer {
		end = "?"
	}
	switch e.kind {
	case kindFlush:
		return fmt.Sprintf("[%d,%s] flush %s", e.begin, end, e.server)
	case kindRead:
		return fmt.Sprintf("[%d,%s] read %d %s", e.begin, end, e.sectors[0], e.server)
	}
	return fmt.Sprintf("[%d,%s] write %d durable=%v %s", e.begin, end, e.value, e.durable, e.server)
}
