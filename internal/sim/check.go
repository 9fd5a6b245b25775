package sim

import (
	"fmt"
	"math"
	"slices"

	"duet/tests/register"
)

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
	var accesses []register.Access
	for _, e := range c.events {
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
		a := register.Access{Write: e.kind == kindWrite, Value: e.value, Call: max(begin, from), End: end}
		if e.kind == kindRead {
			a.Value = e.sectors[sector]
		}
		accesses = append(accesses, a)
	}
	if stuck := register.Linearize(accesses, c.possible(from)); stuck != nil {
		return fmt.Errorf("block %d, sector %d: no order explains what was read since %d; %s", c.block, sector, from, c.explain(from, stuck))
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

// explain says how far the search came, and lists what happened to the block.
func (c *blockCheck) explain(from int64, stuck *register.Impasse) string {
	text := fmt.Sprintf("possible at first: %v; the longest order has %d of %d, leaves %d, and can't go on with: %v", c.possible(from),
		stuck.Ordered, stuck.Total, stuck.Value, stuck.Next)
	if stuck.States >= register.MostStates {
		text += fmt.Sprintf("; NO VERDICT: given up after %d states", stuck.States)
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
