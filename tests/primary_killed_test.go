package tests

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

// repeats is how often a loss is repeated: DUET_TEST_REPEAT, or as often as usual.
func repeats(t *testing.T, usual int) int {
	text := os.Getenv("DUET_TEST_REPEAT")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("DUET_TEST_REPEAT=%q is no number of repetitions", text)
	}
	return n
}

// When the Primary is killed under load and the Secondary is made Primary, every acknowledged write is there. The old
// Primary returns as Secondary, forgets what only it had, and the replicas are identical. Then the other way round.
func TestPrimaryKilled(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	r := newRecorder(0, 16384)
	old, next := s.Node("a"), s.Node("b")
	for i := range repeats(t, 3) {
		t.Run(fmt.Sprintf("%d %s", i+1, old.Name), func(t *testing.T) {
			s := &scenario{Cluster: s.Cluster, t: t, dir: s.dir}
			l := r.begin(t, old.URI("r0"))
			l.waitWrites(t, 300)
			killed := time.Now()
			s.kill(old)
			<-l.done
			s.promote(next, "r0")
			r.verify(t, next.URI("r0"))

			l = r.begin(t, next.URI("r0"))
			l.waitWrites(t, 1)
			t.Logf("first acknowledged write on %s %v after the kill; %d writes are accounted for",
				next.Name, time.Since(killed).Round(time.Millisecond), r.count())
			l.waitWrites(t, 100)
			s.restart(old)
			l.waitWrites(t, 100)
			s.inSync("r0")
			if err := l.end(); err != nil {
				t.Fatal(err)
			}
			r.verify(t, next.URI("r0"))
			s.identical("r0")
		})
		if t.Failed() {
			return
		}
		old, next = next, old
	}
}
