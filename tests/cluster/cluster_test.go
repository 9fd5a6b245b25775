package cluster

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParseStatusTakesBothForms(t *testing.T) {
	const resource = `{"name": "r0", "role": "Primary", "in-sync": ["a", "b"], "generation": 7,
		"devices": [{"disk-state": "UpToDate"}],
		"connections": [{"name": "b", "peer_devices": [{"peer-disk-state": "UpToDate", "out-of-sync": 12}]}]}`
	for _, text := range []string{`{"node": "a", "resources": [` + resource + `]}`, ` [` + resource + `]`} {
		status, err := parseStatus([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		r := status.Resource("r0")
		if r == nil || r.Role != "Primary" || r.Generation != 7 || r.DiskState() != "UpToDate" || r.OutOfSyncKiB() != 12 {
			t.Errorf("read as %+v", r)
		}
		if r.Peer("b") == nil || r.Peer("c") != nil {
			t.Error("the peers are not found")
		}
		if err := r.inSync(2); err == nil {
			t.Error("called in sync with 12 KiB out of sync")
		}
	}
	if _, err := parseStatus([]byte("nothing")); err == nil {
		t.Error("nonsense was read")
	}
}

func TestWaitForSaysWhatIsMissing(t *testing.T) {
	calls := 0
	err := WaitFor(t.Context(), "the third call", func() error {
		if calls++; calls < 3 {
			return errors.New("too early")
		}
		return nil
	})
	if err != nil || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err = WaitFor(ctx, "rain", func() error { return errors.New("the sun shines") })
	if err == nil || !strings.Contains(err.Error(), "rain") || !strings.Contains(err.Error(), "the sun shines") {
		t.Errorf("says %v", err)
	}
}

func TestProcessesEnd(t *testing.T) {
	run := func(script string) *Process {
		log := filepath.Join(t.TempDir(), "log")
		p, err := StartProcess("test", log, "sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		// The trap of the script must be set before a signal comes.
		err = WaitFor(t.Context(), "the script to begin", func() error {
			if tail(log, 1) != "ready" {
				return errors.New("not ready")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const wait = "; echo ready; while :; do sleep 0.01; done"
	tests := []struct {
		name, script string
		fails        bool
	}{
		{"in good order", "trap 'exit 0' TERM" + wait, false},
		{"with a failure", "trap 'exit 3' TERM" + wait, true},
		{"not at all", "trap '' TERM" + wait, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := run(tt.script)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if err := p.Terminate(ctx); (err != nil) != tt.fails {
				t.Errorf("Terminate: %v", err)
			}
			if err := p.Kill(); err != nil {
				t.Errorf("Kill after the end: %v", err)
			}
			if err := p.Signal(syscall.SIGTERM); err == nil {
				t.Error("a signal reached a process that has ended")
			}
		})
	}
	p := run("true" + wait)
	if bytes, err := p.MemoryBytes(); err != nil || bytes < 64<<10 {
		t.Errorf("memory %d, %v", bytes, err)
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
}

func TestFreeAddressesDiffer(t *testing.T) {
	addresses, err := FreeAddresses("127.0.0.1", 20)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(addresses)
	if unique := slices.Compact(slices.Clone(addresses)); len(unique) != 20 {
		t.Errorf("addresses repeat: %v", addresses)
	}
}
