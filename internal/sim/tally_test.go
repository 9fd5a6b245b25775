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
	leastKills, leastPowerLosses, leastCuts int // of any one history
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
	t.Undecided += c.Undecided
	t.FullDisks += c.FullDisks
	t.Looks += c.Looks
	t.Marked += c.Marked
	t.Attached += c.Attached
	t.Takeovers += c.Takeovers
	t.Switches += c.Switches
	t.Growths += c.Growths
	t.Virtual += c.Virtual
	if t.histories == 1 {
		t.leastKills, t.leastPowerLosses, t.leastCuts = c.Kills, c.PowerLosses, c.Cuts
	}
	t.leastKills, t.leastPowerLosses, t.leastCuts = min(t.leastKills, c.Kills), min(t.leastPowerLosses, c.PowerLosses), min(t.leastCuts, c.Cuts)
}

func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprintf("%d histories, %.1f virtual hours: %d writes, %d reads, %d flushes; %d kills, %d orderly stops, "+
		"%d power losses (%d of all machines at once), %d cuts, %d resets, %d disk faults (%d of them full disks), %d disks attached while in use, %d promotions by hand, %d takeovers, %d switchovers; "+
		"each had at least %d kills, %d power losses, %d cuts; %d ended with a decision that is an operator's; %d looks at all marks found %d that were needed; %d growths",
		t.histories, t.Virtual.Hours(), t.Writes, t.Reads, t.Flushes, t.Kills, t.Demands, t.PowerLosses, t.Blackouts, t.Cuts, t.Resets,
		t.DiskFaults, t.FullDisks, t.Attached, t.Promotions, t.Takeovers, t.Switches, t.leastKills, t.leastPowerLosses, t.leastCuts, t.Undecided, t.Looks, t.Marked, t.Growths)
}
