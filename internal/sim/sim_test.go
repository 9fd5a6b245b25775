package sim

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stuckAfter is real time: a history takes a small part of it, whatever the machine.
const stuckAfter = 4 * time.Minute

// play runs one history and checks it. One in which virtual time stands still ends the whole run, since nothing else
// can: with its seed and what its goroutines wait for.
func play(t *testing.T, plan Plan) (counts Counts, err error) {
	var w *world
	bubble := ""
	watchdog := time.AfterFunc(stuckAfter, func() {
		panic(fmt.Sprintf("seed %d is stuck\n%s", plan.Seed, stacksOf(bubble)))
	})
	defer watchdog.Stop()
	defer func() {
		if failure := recover(); failure != nil { // goroutines that are left over, above all
			err = fmt.Errorf("%v\n%s\n%s", failure, w.left(), stacksOf(bubble))
		}
	}()
	synctest.Test(t, func(*testing.T) {
		w, bubble = newWorld(plan), thisBubble()
		w.run()
	})
	return w.counts, errors.Join(append(w.problems, w.history.check())...)
}

// thisBubble is how stack traces name the bubble of the caller.
func thisBubble() string {
	own := make([]byte, 200)
	return regexp.MustCompile(`synctest bubble \d+`).FindString(string(own[:runtime.Stack(own, false)]))
}

// stacksOf are the stacks of a bubble's goroutines.
func stacksOf(bubble string) string {
	all := make([]byte, 16<<20)
	text := ""
	for stack := range strings.SplitSeq(string(all[:runtime.Stack(all, true)]), "\n\n") {
		if strings.Contains(stack, bubble+"]") {
			text += stack + "\n\n"
		}
	}
	return text
}

// nodeLog collects what the nodes of a history say, for the case that it fails.
type nodeLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *nodeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *nodeLog) String() string { return l.text.String() }

// seedsWanted is how many histories a run of the tests plays: DUET_SIM_SEEDS of them, or few.
func seedsWanted(t *testing.T) (first, count uint64) {
	first, count = 1, 40
	for name, value := range map[string]*uint64{"DUET_SIM_FIRST": &first, "DUET_SIM_SEEDS": &count} {
		text := os.Getenv(name)
		if text == "" {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			t.Fatalf("%s=%q is no number", name, text)
		}
		*value = n
	}
	return first, count
}

// TestHistories plays many short histories, each from its seed.
func TestHistories(t *testing.T) {
	first, count := seedsWanted(t)
	skip, total := skipWanted(t), newTally()
	t.Run("seeds", func(t *testing.T) {
		for seed := first; seed < first+count; seed++ {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				if count > 1 {
					t.Parallel()
				}
				plan := newPlan(seed)
				plan.Skip = skip
				log := &nodeLog{}
				if os.Getenv("DUET_SIM_LOG") != "" {
					plan.Log = log
				}
				counts, err := play(t, plan)
				if err != nil || os.Getenv("DUET_SIM_LOG") == "always" {
					t.Log(log)
				}
				if err != nil {
					t.Errorf("%v\n\nto repeat: %s", err, repeatLine(seed))
					if os.Getenv("DUET_SIM_SHRINK") != "" {
						t.Log(shrink(t, plan))
					}
				}
				total.add(counts)
			})
		}
	})
	t.Log(total)
	if total.histories > 20 && (total.Writes == 0 || total.Promotions == 0 || total.Marked == 0) {
		t.Error("the histories are empty")
	}
	if min(total.leastKills, total.leastPowerLosses, total.leastCuts) == 0 && len(skip) == 0 && !t.Failed() {
		t.Error("a history had no kill, no power loss or no cut")
	}
}
