package sim

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// deliberateBugs are bugs that a build with the tag sabotage has on demand, and the seed from which on they are looked
// for: about the first that found each. The interleaving of goroutines differs from run to run, so it may be a later one.
var deliberateBugs = map[string]uint64{
	"ack-before-commit": 371,
	"ack-early":         14,
	"evict-unsaved":     1,
	"forget-log":        14,
	"forget-promise":    115,
	"ignore-boot":       21,
	"keep-set":          20,
	"no-outside-bits":   1,
	"one-sided-bits":    16,
	"promote-outsider":  26,
	"skip-activity-log": 1,
	"skip-local-flush":  3,
	"skip-log-sync":     101,
	"skip-peer-flush":   31,
	"stay-consistent":   84,
	"trust-old-bitmap":  22,
}

// TestDeliberateBugsAreFound: histories that pass with a bug put in on purpose would show nothing.
func TestDeliberateBugsAreFound(t *testing.T) {
	if testing.Short() || os.Getenv("DUET_SABOTAGE") != "" {
		t.Skip("it plays hundreds of histories; not with -short, and not within itself")
	}
	program := filepath.Join(t.TempDir(), "sim.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "sabotage", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for bug, first := range deliberateBugs {
		t.Run(bug, func(t *testing.T) {
			const batch, most = 25, 2000
			for played := uint64(0); played < most; played += batch {
				if !passes(t, program, bug, first+played, batch) {
					t.Logf("found within %d histories from seed %d on", played+batch, first)
					return
				}
			}
			t.Errorf("not found in %d histories from seed %d on", most, first)
		})
	}
}

// passes plays some histories with a bug and reports whether all of them are judged sound.
func passes(t *testing.T, program, bug string, first, count uint64) bool {
	t.Helper()
	play := exec.CommandContext(t.Context(), program, "-test.run", "^TestHistories$", "-test.failfast", "-test.timeout", "5m")
	play.Env = append(os.Environ(), "DUET_SABOTAGE="+bug, fmt.Sprintf("DUET_SIM_FIRST=%d", first), fmt.Sprintf("DUET_SIM_SEEDS=%d", count))
	out, err := play.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v\n%s", err, out)
	}
	return err == nil
}
