package tests

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"
)

// demoTimeout bounds one demonstration.
const demoTimeout = 2 * time.Minute

// The demonstration ends with success only if nothing acknowledged was lost and the copies are identical. That it
// would notice is shown with builds that have a bug put in on purpose.
func TestDemo(t *testing.T) {
	tests := []struct {
		name     string
		sabotage string // DUET_SABOTAGE; empty for the program as it is
		code     int
	}{
		{"as it is", "", 0},
		{"acknowledges before the Secondary has it", "ack-early", 1},
		{"does not log what is being written", "skip-activity-log", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tags := ""
			if tt.sabotage != "" {
				tags = "sabotage"
			}
			ctx, cancel := context.WithTimeout(t.Context(), demoTimeout)
			defer cancel()
			command := exec.CommandContext(ctx, program(t, tags), "demo")
			command.Env = append(os.Environ(), "DUET_SABOTAGE="+tt.sabotage, "TMPDIR="+t.TempDir())
			output, err := command.CombinedOutput()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if code := command.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit status %d, want %d\n%s", code, tt.code, output)
			}
		})
	}
}
