package main

import (
	"strings"
	"testing"
	"time"

	"duet/internal/control"
)

func testForce() control.ForceReport {
	left := time.Unix(1_700_000_000, 0).UTC()
	there := uint64(8)
	return control.ForceReport{Resource: "r0", Node: "n2", Generation: 7, InSync: []string{"n1"}, Primary: "n1", DiskState: control.DiskOutdated,
		LeftAt: 3, LeftTime: &left, Peers: []control.ForcePeer{{Name: "n1", InSync: true, HereKiB: 4}, {Name: "n3", Answers: true, HereKiB: 0, ThereKiB: &there}}}
}

// Force is never a slip of the finger: it takes the name of the resource, typed by somebody, or --yes.
func TestForceAsks(t *testing.T) {
	tests := []struct {
		name, line, typed string
		asks              bool
		code              int
		words             string
		forced            bool
	}{
		{"typed", "primary r0 --force", "r0\n", true, 0, "acknowledged writes may be LOST", true},
		{"typed something else", "primary r0 --force", "yes\n", true, 1, `that is not "r0"`, false},
		{"typed nothing", "primary r0 --force", "", true, 1, "nothing was done", false},
		{"no terminal", "primary r0 --force", "r0\n", false, 1, "--yes", false},
		{"--yes", "primary r0 --force --yes", "", false, 0, "", true},
		{"--yes without --force", "primary r0 --yes", "", true, 2, "--force", false},
		{"--accept-inconsistent without --force", "primary r0 --accept-inconsistent", "", true, 2, "--force", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			node := healthy()
			node.force = testForce()
			dir := serve(t, node)
			var stdout, stderr strings.Builder
			p := &program{stdin: strings.NewReader(tt.typed), stdout: &stdout, stderr: &stderr, asks: tt.asks}
			code := p.run(t.Context(), append([]string{"duet", "--dir", dir}, strings.Fields(tt.line)...))
			if code != tt.code || !strings.Contains(stderr.String(), tt.words) {
				t.Errorf("exit code %d, %q, %q", code, stdout.String(), stderr.String())
			}
			if forced := node.promoted != nil && node.promoted.Force && node.promoted.Generation == 7; forced != tt.forced {
				t.Errorf("asked for %+v", node.promoted)
			}
		})
	}
}

func TestForceRefused(t *testing.T) {
	node := healthy()
	node.force = control.ForceReport{Refusal: "n1 is Primary of r0 and can be reached", Hint: "duet secondary r0"}
	got := duet(t.Context(), serve(t, node), "primary", "r0", "--force", "--yes")
	if got.code != 1 || !strings.Contains(got.stderr, "can be reached\nduet: duet secondary r0") || node.promoted != nil {
		t.Errorf("exit code %d, %q, asked for %+v", got.code, got.stderr, node.promoted)
	}
}

func TestRenderForce(t *testing.T) {
	report := testForce()
	golden(t, "force", renderForce(&report))
}
