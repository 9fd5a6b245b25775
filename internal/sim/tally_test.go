package sim

import (
	"fmt"
	"sync"
)

// tally adds up what happened in many histories.
type tally struct {
	mu        sync.Mutex
	histories int
	Counts
}

func newTally() *tally { return &tally{} }

func (t *tally) add(c Counts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.histories++
	t.Writes += c.Writes
	t.Reads += c.Reads
	t.Flushes += c.Flushes
	t.Kills += c.Kills
	t.PowerLosses += c.PowerLosses
	t.Blackouts += c.Blackouts
	t.Cuts += c.Cuts
	t.Resets += c.Resets
	t.DiskFaults += c.DiskFaults
	t.Promotions += c.Promotions
	t.Demands += c.Demands
	t.Exempt += c.Exempt
	t.Undecided += c.Undecided
	t.Virtual += c.Virtual
}

func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprintf("%d histories, %.1f virtual hours: %d writes, %d reads (%d more not judged), %d flushes; %d kills, %d orderly stops, "+
		"%d power losses (%d of all machines at once), %d cuts, %d resets, %d disk faults, %d promotions; %d ended with a decision that is an operator's", t.histories, t.Virtual.Hours(), t.Writes, t.Reads,
		t.Exempt, t.Flushes, t.Kills, t.Demands, t.PowerLosses, t.Blackouts, t.Cuts, t.Resets, t.DiskFaults, t.Promotions, t.Undecided)
}
