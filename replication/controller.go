package replication

import (
	"slices"
	"time"

	"duet/bitmap"
)

// The controller keeps the latency of the application's writes bounded while a resync runs: of a hundred writes, one may
// take longer than latencyAim times what one in a hundred takes without the resync. It finds out what that is by
// holding the resync for a moment, now and then; within the bound it raises the rate, beyond it lowers it. Nobody writes:
// nobody waits, and the resync takes all.
const (
	latencyAim   = 1.75 // a little less than the factor of two that is promised
	latencyOneIn = 100

	controlInterval = 50 * time.Millisecond
	calmInterval    = 10 * time.Millisecond
	calmLeast       = 40 * time.Millisecond  // a moment without resync lasts so long
	calmLongest     = 300 * time.Millisecond // and no longer than this, however few writes there are
	calmEnough      = 500                    // writes
	calmSilent      = 50 * time.Millisecond  // without any write it is over
	calmEvery       = 5 * time.Second
	// calmKept: the calmest of so many moments counts. What a fast resync leaves to be done, and whatever else the machine
	// is busy with, makes writes slower also when the resync is held; but hardly every time.
	calmKept = 4
	// calmFirstBytes: a resync of more begins with such a moment, before anything disturbs it. A small one is over sooner.
	calmFirstBytes = 64 << 20
	drainLimit     = time.Second // for what is in flight to end

	judgeEnough  = 200                    // writes to judge a rate by
	judgeLongest = 500 * time.Millisecond // or what there is by then

	// floorRate is what a resync gets however long the writes take: it has to end.
	floorRate   = 4 << 20
	firstRate   = 32 << 20
	ceilingRate = 8 << 30 // from here on there is no limit
	// windowTime: that much of the rate is in flight. It is what a write may find in its way.
	windowTime = 10 * time.Millisecond
)

// controlPhase is what a controller is doing.
type controlPhase uint8

const (
	phaseBegin   controlPhase = iota
	phaseFree                 // nobody writes
	phaseDrain                // the resync is held, some of it is in flight
	phaseCalm                 // writes are measured without a resync
	phaseControl              // the rate follows the latency
)

// controlInput is what a controller sees at a step.
type controlInput struct {
	now     time.Time
	writes  latencyCounts // since the last step
	done    uint64        // bytes of the resync so far
	left    uint64        // bytes of the resync
	drained bool          // nothing is in flight
}

// resyncController is the state of one resync's controller; the zero value is one that begins.
type resyncController struct {
	order    resyncOrder
	phase    controlPhase
	since    time.Time       // of the phase
	nextCalm time.Time       // when to measure again
	fresh    latencyCounts   // in this calm phase
	calm     []time.Duration // what one write in a hundred took in the last calm phases
	rate     float64         // bytes per second

	seen      latencyCounts // since the last judgement
	judged    time.Time     // when it was
	judgedAt  uint64        // how much was done by then
	limitTime time.Duration // writes should not take longer
}

// step decides how the target is to ask from now on, and when to look again.
func (c *resyncController) step(in controlInput) time.Duration {
	wait := controlInterval
	switch c.phase {
	case phaseBegin:
		c.enter(phaseFree, in)
		if in.left > calmFirstBytes {
			wait = calmInterval
			c.enter(phaseCalm, in)
		}
	case phaseFree:
		if in.writes.total() > 0 {
			c.enter(phaseDrain, in)
		}
	case phaseDrain:
		wait = calmInterval
		if in.drained {
			c.fresh = latencyCounts{}
			c.enter(phaseCalm, in)
		} else if in.now.Sub(c.since) > drainLimit {
			c.endCalm(in)
		}
	case phaseCalm:
		wait = calmInterval
		c.fresh.add(&in.writes)
		if calmOver(c.fresh.total(), in.now.Sub(c.since)) {
			c.endCalm(in)
		}
	case phaseControl:
		c.seen.add(&in.writes)
		c.judge(in)
	}
	c.decide()
	return wait
}

func (c *resyncController) enter(phase controlPhase, in controlInput) {
	c.phase, c.since = phase, in.now
}

// calmOver reports whether enough is known after so many writes in so much time.
func calmOver(writes uint64, passed time.Duration) bool {
	return writes >= calmEnough && passed >= calmLeast || writes == 0 && passed >= calmSilent || passed >= calmLongest
}

// endCalm goes on with what is known of the writes now.
func (c *resyncController) endCalm(in controlInput) {
	if c.fresh.total() > 0 {
		c.calm = append(c.calm, c.fresh.slowest(latencyOneIn))
		c.calm = c.calm[max(0, len(c.calm)-calmKept):]
	}
	c.nextCalm = in.now.Add(calmEvery)
	c.seen, c.judged, c.judgedAt = latencyCounts{}, in.now, in.done
	if len(c.calm) == 0 {
		c.enter(phaseFree, in)
		return
	}
	c.limitTime = time.Duration(latencyAim * float64(slices.Min(c.calm)))
	if c.rate == 0 {
		c.rate = firstRate
	}
	c.enter(phaseControl, in)
}

// judge moves the rate once enough writes were seen.
func (c *resyncController) judge(in controlInput) {
	count, passed := c.seen.total(), in.now.Sub(c.judged)
	if count < judgeEnough && passed < judgeLongest {
		return
	}
	reached := float64(in.done-c.judgedAt) / passed.Seconds()
	switch {
	case count == 0:
		c.rate *= 4
	case c.seen.above(c.limitTime)*latencyOneIn > count:
		c.rate = max(floorRate, 0.7*min(c.rate, max(reached, floorRate)))
	default: // no further than what the rate is the reason for
		c.rate = min(1.1*c.rate+(1<<20), max(c.rate, 2*reached+firstRate))
	}
	c.seen, c.judged, c.judgedAt = latencyCounts{}, in.now, in.done
	switch {
	case c.rate > ceilingRate && count == 0:
		c.rate, c.calm = 0, nil
		c.enter(phaseFree, in)
	case in.now.After(c.nextCalm) && count > 0:
		c.enter(phaseDrain, in)
	}
}

// decide turns phase and rate into what the target is told.
func (c *resyncController) decide() {
	c.order = resyncOrder{}
	switch {
	case c.phase == phaseDrain || c.phase == phaseCalm:
		c.order.Hold = true
	case c.phase == phaseControl && c.rate < ceilingRate:
		window := max(smallestRequest, min(uint64(c.rate*windowTime.Seconds()), resyncWindowBytes))
		c.order.Rate, c.order.WindowBytes = uint64(c.rate), window
		c.order.RequestBytes = max(smallestRequest, min(window/2, MaxResyncBytes)) / bitmap.BlockBytes * bitmap.BlockBytes
	}
}
