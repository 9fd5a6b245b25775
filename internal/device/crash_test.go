package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"duet/internal/crash"
)

// recordedFiles records what is done to the files in a directory.
type recordedFiles struct{ *crash.Files }

func (f recordedFiles) RenameNew(from, to string) error { return f.Rename(from, to) }

const crashDiskBytes = 8192

// fileRun makes a disk and metadata, uses them, and removes them again.
type fileRun struct {
	recordedFiles
	root string
}

func newFileRun(t *testing.T) *fileRun {
	t.Helper()
	root := t.TempDir()
	recorded, err := crash.RecordFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	return &fileRun{recordedFiles{recorded}, root}
}

func (r *fileRun) path(name string) string { return filepath.Join(r.root, name) }

// make makes what is not there yet, as `duet resource create` does, and again after a kill.
func (r *fileRun) make() error {
	_, disk, err := createOn(r, r.path("disk"), crashDiskBytes)
	if err != nil {
		return err
	}
	r.Mark("disk")
	// What is written later syncs the file alone.
	err = errors.Join(r.Saw(r.path("disk"), crash.Op{Kind: crash.Write, Data: []byte("data")}),
		r.Saw(r.path("disk"), crash.Op{Kind: crash.Sync}), disk.Close())
	r.Mark("data")
	if _, statErr := os.Stat(r.path("meta")); errors.Is(statErr, fs.ErrNotExist) {
		meta, createErr := createRegionOn(r, r.path("meta"), crashDiskBytes)
		if createErr != nil {
			return errors.Join(err, createErr)
		}
		err = errors.Join(err, meta.Close())
		r.Mark("meta")
	}
	return err
}

// check wants files whole or not at all, and those there that were made, until they were removed.
func (r *fileRun) check(s *crash.State) (err error) {
	dir, err := os.MkdirTemp("", "crash-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := s.Image.WriteTo(dir); err != nil {
		return err
	}
	for _, name := range []string{"disk", "meta"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if s.Marked(name) && !s.Marked("removing "+name) {
				return fmt.Errorf("the %s is gone", name)
			}
			continue
		case err != nil:
			return err
		case s.Marked(name + " removed"):
			return fmt.Errorf("the %s is back", name)
		case len(content) != crashDiskBytes:
			return fmt.Errorf("the %s has %d bytes", name, len(content))
		}
		text := strings.TrimRight(string(content), "\x00")
		if text != "" && (name == "meta" || text != "data") || name == "disk" && s.Marked("data") && text != "data" {
			return fmt.Errorf("the %s holds %q", name, text)
		}
	}
	return nil
}

func (r *fileRun) makeAndRemove(t *testing.T) {
	t.Helper()
	if err := r.make(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"meta", "disk"} {
		r.Mark("removing %s", name)
		if err := removeOn(r, r.path(name)); err != nil {
			t.Fatal(err)
		}
		r.Mark("%s removed", name)
	}
}

// TestCrashWhileMakingFiles loses power anywhere, also after a kill and a second attempt.
func TestCrashWhileMakingFiles(t *testing.T) {
	run := newFileRun(t)
	run.makeAndRemove(t)
	total, err := run.Explore(crash.DefaultBudget(), run.check)
	if err != nil {
		t.Fatal(err)
	}
	for n, op := range run.Ops() {
		if strings.HasPrefix(op.Name, "removing") {
			break
		}
		root := t.TempDir()
		recorded, err := run.ResumeFiles(root, n)
		if err != nil {
			t.Fatal(err)
		}
		again := &fileRun{recordedFiles{recorded}, root}
		if err := again.make(); err != nil {
			t.Fatal(err)
		}
		budget := crash.DefaultBudget()
		budget.From = n + 1
		report, err := again.Explore(budget, again.check)
		if err != nil {
			t.Fatalf("killed after %d operations, then: %v", n, err)
		}
		total.Add(report)
	}
	t.Logf("explored %s", total)
}

func TestCrashExplorationOfFilesNoticesMissingSyncs(t *testing.T) {
	run := newFileRun(t)
	run.makeAndRemove(t)
	for name, of := range map[string]func(path string) bool{
		"of the directory": func(path string) bool { return path == run.root },
		"of new files":     func(path string) bool { return strings.Contains(path, ".new-") },
	} {
		ops := crash.Forget(run.Ops(), func(op crash.Op) bool { return op.Kind == crash.Sync && of(op.Path) })
		if report, err := crash.Explore(run.Initial(), ops, crash.DefaultBudget(), run.check); err == nil {
			t.Errorf("syncs %s forgotten, and nothing noticed in %s", name, report)
		}
	}
}
