package replication

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// latencySteps is how many counters there are for each doubling of the time: neighbours differ by an eighth.
	latencySteps   = 8
	latencyBuckets = 40 * latencySteps // up to 18 minutes
)

// latencyMeter counts how long the application's writes take. Any number of goroutines add.
type latencyMeter struct{ counts [latencyBuckets]atomic.Uint64 }

// latencyCounts is a snapshot, or the difference of two.
type latencyCounts [latencyBuckets]uint64

func (m *latencyMeter) add(took time.Duration) { m.counts[latencyBucket(took)].Add(1) }

func (m *latencyMeter) snapshot() (c latencyCounts) {
	for i := range c {
		c[i] = m.counts[i].Load()
	}
	return c
}

// latencyBucket is the counter for a time.
func latencyBucket(took time.Duration) int {
	ns := uint64(max(took, 0))
	if ns < latencySteps {
		return int(ns)
	}
	shift := bits.Len64(ns) - 4
	return min((shift+1)*latencySteps+int(ns>>shift)-latencySteps, latencyBuckets-1)
}

// latencyFloor is the least time that a counter stands for.
func latencyFloor(bucket int) time.Duration {
	if bucket < latencySteps {
		return time.Duration(bucket)
	}
	return time.Duration(latencySteps+bucket%latencySteps) << (bucket/latencySteps - 1)
}

func (c *latencyCounts) total() (n uint64) {
	for _, count := range c {
		n += count
	}
	return n
}

// since is what came on top of an earlier snapshot.
func (c *latencyCounts) since(before *latencyCounts) (d latencyCounts) {
	for i := range d {
		d[i] = c[i] - before[i]
	}
	return d
}

func (c *latencyCounts) add(more *latencyCounts) {
	for i := range c {
		c[i] += more[i]
	}
}

// above is how many took longer than the limit, to the precision of a counter.
func (c *latencyCounts) above(limit time.Duration) (n uint64) {
	for i := latencyBucket(limit) + 1; i < latencyBuckets; i++ {
		n += c[i]
	}
	return n
}

// slowest is the time that only one in so many exceeds.
func (c *latencyCounts) slowest(oneIn uint64) time.Duration {
	left := c.total() / oneIn
	for i := latencyBuckets - 1; i >= 0; i-- {
		if c[i] > left {
			return latencyFloor(min(i+1, latencyBuckets-1))
		}
		left -= c[i]
	}
	return 0
}
