package failover

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"duet/tests/register"
)

// mostReported bounds how many operations a report lists before the one that can't be.
const mostReported = 60

// judge checks all that was seen since the last time. Nothing is in flight, and the last thing that happened to each block is a
// read by who is Primary now. The tenures are those of the record so far.
func (h *history) judge(tenures []tenure) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	operations := h.operations
	h.operations = nil
	all := append(slices.Clone(h.open), operations...)
	h.open = nil
	slices.SortFunc(all, func(a, b operation) int { return int(a.begin - b.begin) })
	failures := []error{h.judgeTenures(all, tenures)}
	blocks := make([][]operation, h.blocks)
	for _, o := range all {
		blocks[o.block] = append(blocks[o.block], o)
	}
	begins := beginsByServer(all)
	for block, seen := range blocks {
		failures = append(failures, h.judgeBlock(uint64(block), seen, begins))
	}
	return errors.Join(failures...)
}

// judgeTenures checks that at any time one node acknowledges at most: that each answer can be given a tenure of its node such that they
// never go back. The earliest one that is possible leaves the most to those that follow.
func (h *history) judgeTenures(all []operation, tenures []tenure) error {
	answered := slices.DeleteFunc(slices.Clone(all), func(o operation) bool { return !o.answered })
	byEnd := slices.Clone(answered)
	slices.SortFunc(byEnd, func(a, b operation) int { return int(a.end - b.end) })
	given := make(map[operation]int, len(answered))
	ended, newest := 0, h.tenure
	for _, o := range answered {
		for ; byEnd[ended].end < o.begin; ended++ {
			newest = max(newest, given[byEnd[ended]])
		}
		i := newest
		for i < len(tenures) && tenures[i].node != o.server.node {
			i++
		}
		if i == len(tenures) {
			return fmt.Errorf("block %d: %v: %s is not Primary in or after generation %d, in which another node has answered before; "+
				"the record has %v", o.block, o, o.server.node, tenures[min(newest, len(tenures)-1)].generation, tenures[max(0, newest-2):])
		}
		given[o] = i
	}
	for _, i := range given {
		h.tenure = max(h.tenure, i)
	}
	return nil
}

// beginsByServer lists, in order, when the operations began that each server has answered.
func beginsByServer(all []operation) map[server][]time.Duration {
	begins := map[server][]time.Duration{}
	for _, o := range all { // by begin
		if o.answered {
			begins[o.server] = append(begins[o.server], o.begin)
		}
	}
	return begins
}

// until is when a write without an answer has happened at the latest, if ever: who answers an operation was Primary when that began, as
// others take no connection and a new Primary none of an old one's. So when another server answers something that was begun after the
// write was given up, the server that had the write was dead or no longer Primary before. 0: nothing of the kind is known.
func until(w operation, begins map[server][]time.Duration) time.Duration {
	earliest := time.Duration(math.MaxInt64)
	for s, times := range begins {
		if s == w.server {
			continue
		}
		if i, _ := slices.BinarySearch(times, w.end+1); i < len(times) {
			earliest = min(earliest, times[i]-1)
		}
	}
	if earliest == math.MaxInt64 {
		return 0
	}
	return earliest
}

// judgeBlock checks one block, and notes what is to be known of it next time.
func (h *history) judgeBlock(block uint64, seen []operation, begins map[server][]time.Duration) error {
	read := map[uint64]bool{}
	for _, o := range seen {
		if !o.write {
			read[o.value] = true
		}
	}
	var accesses []register.Access
	for _, o := range seen {
		a := register.Access{Write: o.write, Value: o.value, Call: int64(o.begin), End: int64(o.end)}
		if !o.answered {
			a.End, a.Until = register.NoAnswer, int64(until(o, begins))
			if a.Until == 0 && !read[o.value] {
				h.open = append(h.open, o)
			}
			if !read[o.value] {
				continue // whether it happened makes no difference to anybody
			}
		}
		accesses = append(accesses, a)
	}
	before := h.content[block]
	if last := lastRead(seen); last != nil {
		h.content[block] = last.value
	}
	if stuck := register.Linearize(accesses, []uint64{before}); stuck != nil {
		return explain(block, before, seen, stuck)
	}
	return nil
}

// lastRead is the read that began last, nil without one.
func lastRead(seen []operation) *operation {
	for i := len(seen) - 1; i >= 0; i-- {
		if !seen[i].write {
			return &seen[i]
		}
	}
	return nil
}

// explain says how far an order comes and lists what happened to the block.
func explain(block, before uint64, seen []operation, stuck *register.Impasse) error {
	var b strings.Builder
	fmt.Fprintf(&b, "block %d: no order explains what was read; it held %d; the longest order has %d of %d, leaves %d, and can't go on with: %v at %v",
		block, before, stuck.Ordered, stuck.Total, stuck.Value, stuck.Next, time.Duration(stuck.Next.Call))
	if stuck.States >= register.MostStates {
		fmt.Fprintf(&b, "; NO VERDICT: given up after %d states", stuck.States)
	}
	at := slices.IndexFunc(seen, func(o operation) bool { return int64(o.begin) > stuck.Next.End })
	if at < 0 {
		at = len(seen)
	}
	for _, o := range seen[max(0, at-mostReported):at] {
		fmt.Fprintf(&b, "\n  %v", o)
	}
	return errors.New(b.String())
}
