package supervisor

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLogIsBoundedAndWhole(t *testing.T) {
	file, err := os.OpenFile(filepath.Join(t.TempDir(), "log"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}()
	const limit, lines = 1000, 500
	for i := range lines {
		if err := appendBounded(file, fmt.Appendf(nil, "line %d\n", i), limit); err != nil {
			t.Fatal(err)
		}
		if info, err := file.Stat(); err != nil || info.Size() > limit {
			t.Fatalf("%v, %d bytes after line %d", err, info.Size(), i)
		}
	}
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	kept := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for i, line := range kept {
		if want := fmt.Sprintf("line %d", lines-len(kept)+i); line != want {
			t.Fatalf("%q, want %q", line, want)
		}
	}
	if len(kept) < limit/2/len("line 999\n") {
		t.Errorf("only %d lines are left", len(kept))
	}
}

func TestLogGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for i := range 2 {
		log, err := OpenLog(path)
		if err != nil {
			t.Fatal(err)
		}
		slog.New(slog.NewTextHandler(log, nil)).Info("run", "number", i)
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(path); err != nil || strings.Count(string(text), "\n") != 2 || !strings.Contains(string(text), "number=1") {
		t.Errorf("%v, %q", err, text)
	}
}
