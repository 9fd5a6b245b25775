package sim

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// shrinkRuns is how often a plan is played before it counts as one that passes: the interleaving differs from run to run.
const shrinkRuns = 12

// smallest leaves troubles out of a failing history, first many at once, then one by one, as long as fails says that it
// still fails. It returns the numbers of those left out, in order.
func smallest(troubles int, fails func(skip map[int]bool) bool) []int {
	skip := map[int]bool{}
	for size := (troubles + 1) / 2; size > 0; size /= 2 {
		for from := 0; from < troubles; from += size {
			attempt := maps.Clone(skip)
			for i := from; i < min(from+size, troubles); i++ {
				attempt[i] = true
			}
			if len(attempt) > len(skip) && fails(attempt) {
				skip = attempt
			}
		}
	}
	return slices.Sorted(maps.Keys(skip))
}

// shrink plays a plan that failed with fewer and fewer troubles and says how to play the smallest that still fails.
func shrink(t *testing.T, plan Plan) string {
	t.Helper()
	plan.Log = nil
	all := len(schedule(plan.Seed, plan.Length))
	skip := smallest(all, func(skip map[int]bool) bool {
		attempt := plan
		attempt.Skip = skip
		for range shrinkRuns {
			if _, err := play(t, attempt); err != nil {
				return true
			}
		}
		return false
	})
	return fmt.Sprintf("the smallest plan that still fails has %d of %d troubles: DUET_SIM_SKIP=%s %s", all-len(skip), all, skipText(skip), repeatLine(plan.Seed))
}

// repeatLine is the command that plays a seed again.
func repeatLine(seed uint64) string {
	return fmt.Sprintf("DUET_SIM_FIRST=%d DUET_SIM_SEEDS=1 DUET_SIM_LOG=1 go test ./internal/sim -run TestHistories -count=10", seed)
}

func skipText(skip []int) string {
	var numbers []string
	for _, n := range skip {
		numbers = append(numbers, strconv.Itoa(n))
	}
	return strings.Join(numbers, ",")
}

// skipWanted is DUET_SIM_SKIP: numbers of troubles that don't happen, as the log has them.
func skipWanted(t *testing.T) map[int]bool {
	t.Helper()
	skip := map[int]bool{}
	text := os.Getenv("DUET_SIM_SKIP")
	for number := range strings.SplitSeq(text, ",") {
		if text == "" {
			break
		}
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("DUET_SIM_SKIP=%q is no list of numbers", text)
		}
		skip[n] = true
	}
	return skip
}

// TestSmallest: what a failure does not need is left out, and nothing else.
func TestSmallest(t *testing.T) {
	for _, needed := range [][]int{{}, {0}, {3, 7}, {0, 1, 2, 3, 4, 5, 6, 7, 8}, {8}, {1, 4, 8}} {
		tries := 0
		skip := smallest(9, func(skip map[int]bool) bool {
			tries++
			return !slices.ContainsFunc(needed, func(n int) bool { return skip[n] })
		})
		for n := range 9 {
			if slices.Contains(skip, n) == slices.Contains(needed, n) {
				t.Errorf("%v are needed, and %v are left out", needed, skip)
				break
			}
		}
		if tries > 40 {
			t.Errorf("%d attempts", tries)
		}
	}
}

// TestSkipText: a plan can be given as it is printed.
func TestSkipText(t *testing.T) {
	t.Setenv("DUET_SIM_SKIP", skipText([]int{3, 5, 12}))
	if got := slices.Sorted(maps.Keys(skipWanted(t))); !slices.Equal(got, []int{3, 5, 12}) {
		t.Errorf("%v", got)
	}
}
