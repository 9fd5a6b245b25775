package replication

import (
	"fmt"
	"math"
	"testing"
	"time"
)

// TestTimeLeftIsRightWithinAFactorOfTwo replays resyncs whose rate varies, by a fake clock that ticks as often as blocks
// are written, and compares what was foretold with what came.
func TestTimeLeftIsRightWithinAFactorOfTwo(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct {
		name string
		rate func(second float64) float64 // MiB/s
		from float64                      // from this second on it has to be right
	}{
		{"steady", func(float64) float64 { return 100 }, 1},
		{"slow", func(float64) float64 { return 0.5 }, 1},
		{"bursts of a second", func(s float64) float64 { return 200 * float64(int(s)%2) }, 4},
		{"held now and then", func(s float64) float64 {
			if math.Mod(s, 5) < 0.3 {
				return 0
			}
			return 100
		}, 2},
		{"uneven", func(s float64) float64 { return 100 + 60*math.Sin(s*3) + 30*math.Sin(s*17) }, 3},
		{"four times slower from the middle on", func(s float64) float64 {
			if s < 60 {
				return 400
			}
			return 100
		}, 90},
		{"four times faster from the middle on", func(s float64) float64 {
			if s < 60 {
				return 100
			}
			return 400
		}, 90},
	} {
		for _, step := range []time.Duration{10 * time.Millisecond, 250 * time.Millisecond} {
			t.Run(fmt.Sprint(test.name, " ", step), func(t *testing.T) {
				const seconds = 120
				sum := func(from, to float64) (mibs float64) {
					for s := from; s < to; s += step.Seconds() {
						mibs += test.rate(s) * step.Seconds()
					}
					return mibs
				}
				total := sum(0, seconds)
				start := time.Unix(1000, 0)
				var p progress
				p.observe(start, 0, false)
				done := 0.0
				for s := step.Seconds(); s < seconds-5; s += step.Seconds() {
					done += test.rate(s) * step.Seconds()
					p.observe(start.Add(time.Duration(s*1e9)), uint64(done*mib), false)
					if s < test.from {
						continue
					}
					foretold, real := float64(p.secondsLeft(uint64((total-done)*mib))), seconds-s
					if foretold > 2*real || foretold < real/2 {
						t.Fatalf("after %.1f s it said %.0f s, there were %.0f", s, foretold, real)
					}
				}
			})
		}
	}
}

func TestPauseDoesNotCountAsSlowness(t *testing.T) {
	now := time.Unix(1000, 0)
	var p progress
	p.observe(now, 0, false)
	for i := range 100 {
		now = now.Add(100 * time.Millisecond)
		p.observe(now, uint64(i+1)<<20, false)
	}
	before := p.secondsLeft(1 << 30)
	for range 100 {
		now = now.Add(time.Minute)
		p.observe(now, 100<<20, true)
	}
	now = now.Add(100 * time.Millisecond)
	p.observe(now, 101<<20, false)
	if after := p.secondsLeft(1 << 30); after != before {
		t.Errorf("%d s were left, after the pause %d", before, after)
	}
}

func TestTimeLeftWhenItCantBeTold(t *testing.T) {
	var p progress
	if left := p.secondsLeft(1); left != -1 {
		t.Errorf("%d s before anything was seen", left)
	}
	p.observe(time.Unix(1000, 0), 0, false)
	p.observe(time.Unix(1010, 0), 0, false)
	if left := p.secondsLeft(1); left != -1 {
		t.Errorf("%d s of a resync that stands still", left)
	}
	if left := p.secondsLeft(0); left != 0 {
		t.Errorf("%d s of nothing", left)
	}
}
