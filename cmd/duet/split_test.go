package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"duet/internal/control"
)

func testSplit() *control.SplitReport {
	when := time.Unix(1_700_000_000, 0).UTC()
	return &control.SplitReport{Resource: "r0", Generation: 7, Primary: "n2", InSync: []string{"n2"}, Forks: []control.SplitFork{{
		Name: "n1", Generation: 5, Time: &when, Base: 3, Other: "n2", Answers: true, OtherAnswers: true, DiskState: control.DiskOutdated, Covered: true,
		HasKiB: new(uint64(12)), LacksKiB: new(uint64(8)), DifferKiB: new(uint64(16)),
		HasRanges: []control.ByteRange{{Offset: 0, Length: 12288}}, LacksRanges: []control.ByteRange{{Offset: 8192, Length: 8192}},
	}}}
}

func testResolution() *control.SplitResolution {
	return &control.SplitResolution{Resource: "r0", Keep: "n2", Generation: 8, Losers: []control.SplitLoser{{Name: "n1", Answers: true,
		UndoFile: "/var/lib/duet/undo/r0-0a0a0a0a-g8.undo", CopyKiB: new(uint64(16)), SaveKiB: new(uint64(17)), FreeKiB: new(uint64(1 << 20))}}}
}

func TestRenderSplit(t *testing.T) {
	plain := testSplit()
	unknown := testSplit()
	f := &unknown.Forks[0]
	f.Answers, f.HasKiB, f.DifferKiB, f.Covered, f.Time, f.Base = false, nil, nil, false, nil, 0
	uncovered := testSplit()
	f = &uncovered.Forks[0]
	f.Covered, f.HasRanges, f.LacksRanges, f.GivenUp, f.Reason = false, nil, nil, 6, "what it held can't be saved: no space left"
	forced := testSplit()
	f = &forced.Forks[0]
	f.Forced, f.GivenUp, f.HasRanges, f.LacksRanges = true, 9, nil, nil
	var all strings.Builder
	for _, report := range []*control.SplitReport{plain, unknown, uncovered, forced, {Resource: "r0", InSync: []string{"n1", "n2"}}} {
		all.WriteString(renderSplit(report) + "\n")
	}
	golden(t, "split", all.String())
}

func TestRenderResolution(t *testing.T) {
	far := testResolution()
	far.Losers[0] = control.SplitLoser{Name: "n1"}
	full := testResolution()
	full.DryRun, full.Forced = true, true
	full.Losers[0].CopyKiB, full.Losers[0].Problem = nil, "there is something at /x already"
	var all strings.Builder
	for _, resolution := range []*control.SplitResolution{testResolution(), far, full} {
		all.WriteString(renderResolution(resolution) + "\n")
	}
	golden(t, "resolution", all.String())
}

func TestSplitUsage(t *testing.T) {
	node := healthy()
	dir := serve(t, node)
	for _, line := range []string{"split resolve r0", "split resolve r0 --keep n1 --undo-file here", "split undo r0", "split undo r0 --undo-file /x",
		"split resolve --keep n1", "split nothing"} {
		if got := duet(t.Context(), dir, strings.Fields(line)...); got.code != control.ExitUsage || node.resolved != nil {
			t.Errorf("duet %s: exit code %d, %q", line, got.code, got.stderr)
		}
	}
}

// What is no undo file makes no image, and touches nothing.
func TestSplitUndoRefuses(t *testing.T) {
	dir := serve(t, healthy())
	place := t.TempDir()
	disk, undo, image := filepath.Join(place, "disk"), filepath.Join(place, "undo"), filepath.Join(place, "image")
	for _, content := range [][]byte{nil, []byte("DUETUN01"), bytes.Repeat([]byte{7}, 1<<16)} {
		if err := os.WriteFile(undo, content, 0o600); err != nil {
			t.Fatal(err)
		}
		got := duet(t.Context(), dir, "split", "undo", "r0", "--undo-file", undo, "--to", image, "--disk", disk)
		if _, err := os.Stat(image); got.code != control.ExitFailed || !strings.Contains(got.stderr, "no image was made") || err == nil {
			t.Errorf("exit code %d, %q, %v", got.code, got.stderr, err)
		}
	}
}
