package replication

import (
	"math"
	"time"
)

const (
	// progressStep is the shortest time that says anything about a rate.
	progressStep = 100 * time.Millisecond
	// progressMemory is how long what was counts for; at first everything does.
	progressMemory = 15 * time.Second
)

// progress is the rate of a resync, smoothed over the last seconds: long enough that a pause for breath does not double
// the time that is left, short enough that a change of the rate is soon noticed.
type progress struct {
	began, at time.Time
	done      uint64
	rate      float64 // bytes per second
}

// observe takes how much was done by now. Time in which the resync is paused does not count.
func (p *progress) observe(now time.Time, done uint64, paused bool) {
	passed := now.Sub(p.at)
	switch {
	case p.began.IsZero():
		p.began, p.at, p.done = now, now, done
		return
	case paused:
		p.began = p.began.Add(passed)
		p.at, p.done = now, done
		return
	case passed < progressStep:
		return
	}
	rate := float64(done-p.done) / passed.Seconds()
	memory := min(now.Sub(p.began), progressMemory)
	p.rate += (rate - p.rate) * (1 - math.Exp(-passed.Seconds()/memory.Seconds()))
	if p.at.Equal(p.began) {
		p.rate = rate
	}
	p.at, p.done = now, done
}

// secondsLeft is when the rest will be done; -1 if that can't be told.
func (p *progress) secondsLeft(left uint64) int64 {
	if left == 0 {
		return 0
	}
	if seconds := math.Ceil(float64(left) / p.rate); p.rate > 0 && seconds < math.MaxInt32 {
		return int64(seconds)
	}
	return -1
}
