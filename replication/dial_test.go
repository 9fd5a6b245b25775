package replication

import (
	"testing"
	"time"
)

// Sessions that end at once must not keep both nodes busy with connecting; one that changes its part must not wait.
func TestDialPace(t *testing.T) {
	timing := Timing{RetryMin: 50 * time.Millisecond, RetryMax: 2 * time.Second}
	p := dialPace{timing: &timing}
	now := time.Unix(1000, 0)
	var rests []time.Duration
	for range 12 {
		rest, limit := p.next(now, true)
		if limit < rest || limit <= 0 {
			t.Fatalf("rest %v, limit %v", rest, limit)
		}
		rests = append(rests, rest)
		now = now.Add(rest + time.Millisecond)
	}
	if rests[0] != 0 || rests[briefAtOnce-2] != 0 || rests[briefAtOnce-1] == 0 || rests[11] != timing.RetryMax {
		t.Errorf("sessions that end at once: %v", rests)
	}
	if rest, _ := p.next(now.Add(time.Minute), true); rest != 0 {
		t.Errorf("after a session of a minute: %v", rest)
	}
	for range 20 {
		now = now.Add(timing.RetryMax + 10*time.Millisecond)
		p.next(now, false)
	}
	if rest, limit := p.next(now, false); rest != 0 || limit != timing.RetryMax {
		t.Errorf("nobody answers: %v to %v", rest, limit)
	}
	if rest, limit := p.next(now, true); rest != 0 || limit != timing.RetryMin {
		t.Errorf("the first session after that: %v to %v", rest, limit)
	}
}
