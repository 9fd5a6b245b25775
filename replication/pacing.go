package replication

import (
	"time"

	"duet/bitmap"
)

const (
	// smallestRequest is what a slow resync asks for at a time: small enough that a write hardly waits behind it, large
	// enough that a disk gets something done.
	smallestRequest = 64 << 10
	// rateBurst is how much of a missed time is made up for.
	rateBurst = 20 * time.Millisecond
)

// rateBucket spaces requests out in time.
type rateBucket struct{ next time.Time }

// wait is how long the next request has to wait.
func (b *rateBucket) wait(now time.Time) time.Duration { return max(0, b.next.Sub(now)) }

// take counts n bytes at a rate of so many per second; 0 is any rate.
func (b *rateBucket) take(now time.Time, n, rate uint64) {
	if rate == 0 {
		b.next = time.Time{}
		return
	}
	if earliest := now.Add(-rateBurst); b.next.Before(earliest) {
		b.next = earliest
	}
	b.next = b.next.Add(bytesTime(n, rate))
}

// giveBack takes back what turned out not to cost anything.
func (b *rateBucket) giveBack(n, rate uint64) {
	if rate > 0 && !b.next.IsZero() {
		b.next = b.next.Add(-bytesTime(n, rate))
	}
}

func bytesTime(n, rate uint64) time.Duration {
	return time.Duration(float64(n) / float64(rate) * float64(time.Second))
}

// requestFor is how much to ask for at a time at a rate: a fiftieth of a second's worth.
func requestFor(rate uint64) uint64 {
	return max(smallestRequest, min(rate/50, MaxResyncBytes)) / bitmap.BlockBytes * bitmap.BlockBytes
}
