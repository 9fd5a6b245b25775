package replication

import (
	"math"
	"testing"
	"time"
)

func TestLatencyBuckets(t *testing.T) {
	last := -1
	for _, took := range []time.Duration{0, 1, 7, 8, 9, 15, 16, 17, 100, 1000, 12345, time.Millisecond, time.Second, time.Hour} {
		bucket := latencyBucket(took)
		if bucket < last {
			t.Errorf("%v is before what is shorter", took)
		}
		last = bucket
		floor, ceiling := latencyFloor(bucket), latencyFloor(min(bucket+1, latencyBuckets-1))
		if took < time.Minute && (took < floor || took >= ceiling || floor > 0 && ceiling-floor > floor/latencySteps+1) {
			t.Errorf("%v is counted as %v to %v", took, floor, ceiling)
		}
	}
}

func TestLatencyCounts(t *testing.T) {
	var m latencyMeter
	for i := range 1000 {
		m.add(time.Duration(i+1) * time.Microsecond)
	}
	c := m.snapshot()
	if n := c.total(); n != 1000 {
		t.Errorf("%d counted", n)
	}
	if p99 := c.slowest(100); p99 < 990*time.Microsecond || p99 > 1150*time.Microsecond {
		t.Errorf("one in a hundred took longer than %v", p99)
	}
	if n := c.above(500 * time.Microsecond); n < 430 || n > 500 {
		t.Errorf("%d took longer than 500 us", n)
	}
	later := m.snapshot()
	if d := later.since(&c); d.total() != 0 || d.slowest(100) != 0 {
		t.Errorf("%d since then", d.total())
	}
}

// plant is an application and a resync that get into each other's way.
type plant struct {
	writesPerSecond float64
	idle            time.Duration              // of the one write in a hundred
	slowdown        func(rate float64) float64 // what a resync of so many bytes per second does to it
	capacity        float64                    // what the resync reaches without limits
	now             time.Time
	done            uint64
}

// run lets a controller drive the plant by a fake clock, and returns how much the resync got done, and the writes.
func (p *plant) run(c *resyncController, span time.Duration) (done uint64, writes latencyCounts) {
	if p.now.IsZero() {
		p.now = time.Unix(1000, 0)
	}
	end := p.now.Add(span)
	before := p.done
	wait, order := c.step(controlInput{now: p.now, done: p.done, left: 1 << 40, drained: true}), c.order
	for p.now.Before(end) {
		rate := p.capacity
		if order.Rate > 0 {
			rate = min(rate, float64(order.Rate))
		}
		if order.Hold {
			rate = 0
		}
		var in latencyCounts
		count := int(p.writesPerSecond * wait.Seconds())
		for i := range count {
			took := p.idle / 3
			if i%80 == 0 {
				took = time.Duration(float64(p.idle) * p.slowdown(rate))
			}
			in[latencyBucket(took)]++
		}
		p.done += uint64(rate * wait.Seconds())
		p.now = p.now.Add(wait)
		writes.add(&in)
		wait = c.step(controlInput{now: p.now, writes: in, done: p.done, drained: order.Hold})
		order = c.order
	}
	return p.done - before, writes
}

func TestControllerKeepsLatencyAndMakesProgress(t *testing.T) {
	const mib = 1 << 20
	linear := func(rate float64) float64 { return 1 + rate/(100*mib) } // twice as slow at 100 MiB/s
	for _, test := range []struct {
		name     string
		plant    plant
		min, max float64 // MiB/s over a minute
		bounded  bool    // the writes stay within twice the idle latency
	}{
		{"nobody writes", plant{writesPerSecond: 0, idle: time.Millisecond, slowdown: linear, capacity: 2000 * mib}, 1990, 2000, true},
		{"a resync that hurts nobody", plant{writesPerSecond: 10000, idle: time.Millisecond, slowdown: func(float64) float64 { return 1 }, capacity: 2000 * mib}, 1500, 2000, true},
		{"one that does", plant{writesPerSecond: 10000, idle: time.Millisecond, slowdown: linear, capacity: 2000 * mib}, 40, 110, true},
		{"slow writes", plant{writesPerSecond: 200, idle: 20 * time.Millisecond, slowdown: linear, capacity: 2000 * mib}, 20, 130, true},
		{"one that always does", plant{writesPerSecond: 10000, idle: time.Millisecond, slowdown: func(rate float64) float64 { return 1 + math.Ceil(rate)*100 }, capacity: 2000 * mib}, 3, 12, false},
		{"slower than the limit", plant{writesPerSecond: 10000, idle: time.Millisecond, slowdown: linear, capacity: 20 * mib}, 15, 20, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var c resyncController
			done, writes := test.plant.run(&c, time.Minute)
			if rate := float64(done) / 60 / mib; rate < test.min || rate > test.max {
				t.Errorf("%.1f MiB/s, want %v to %v", rate, test.min, test.max)
			}
			if p99 := writes.slowest(100); test.bounded && p99 > 2*test.plant.idle*9/8 {
				t.Errorf("one write in a hundred took %v, without a resync %v", p99, test.plant.idle)
			}
		})
	}
}

func TestControllerLetsGoWhenWritesEnd(t *testing.T) {
	p := plant{writesPerSecond: 10000, idle: time.Millisecond, slowdown: func(rate float64) float64 { return 1 + rate/(50<<20) }, capacity: 1 << 30}
	var c resyncController
	p.run(&c, 10*time.Second)
	if c.order.Rate == 0 && !c.order.Hold {
		t.Fatal("there is no limit while the application writes")
	}
	p.writesPerSecond = 0
	if done, _ := p.run(&c, 20*time.Second); done < 10<<30 {
		t.Errorf("%d MiB in 20 s, of 1 GiB/s", done>>20)
	}
	if c.order != (resyncOrder{}) {
		t.Errorf("in the end %+v", c.order)
	}
}

// A target that never drains does not keep the resync held.
func TestControllerGivesUpWaitingForCalm(t *testing.T) {
	var c resyncController
	now := time.Unix(1000, 0)
	var writes latencyCounts
	writes[latencyBucket(time.Millisecond)] = 100
	for range 1000 {
		if now = now.Add(c.step(controlInput{now: now, writes: writes})); !c.order.Hold && c.phase != phaseDrain && now.After(time.Unix(1001, 0)) {
			return
		}
	}
	t.Error("the resync is held for ever")
}

func TestControllerOrdersFit(t *testing.T) {
	for _, rate := range []float64{floorRate, 10 << 20, 100 << 20, 1 << 30, ceilingRate - 1} {
		c := resyncController{phase: phaseControl, rate: rate}
		c.decide()
		m := controlMessage{resyncOrder: c.order}
		if err := m.validate(); err != nil || c.order.RequestBytes > max(c.order.WindowBytes, smallestRequest) || c.order.WindowBytes > resyncWindowBytes {
			t.Errorf("at %.0f: %+v, %v", rate, c.order, err)
		}
	}
}
