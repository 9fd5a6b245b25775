package crash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// contents explores a run and returns what a file could hold, each once, sorted.
func contents(t *testing.T, r *Recorder, file int) []string {
	t.Helper()
	found := map[string]bool{}
	report, err := r.Explore(DefaultBudget(), func(s *State) error {
		found[string(s.Image.Content(file).bytes())] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if report.Exhaustive != report.Points {
		t.Errorf("not exhaustive: %s", report)
	}
	var all []string
	for text := range found {
		all = append(all, shorten(text))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// shorten says of each run of a character only that it is there.
func shorten(text string) string {
	runs := []byte{}
	for i := range len(text) {
		if i == 0 || text[i] != text[i-1] {
			runs = append(runs, text[i])
		}
	}
	return strings.ReplaceAll(string(runs), "\x00", "0")
}

func sectors(text string) []byte {
	var p []byte
	for i := range len(text) {
		p = append(p, strings.Repeat(text[i:i+1], SectorBytes)...)
	}
	return p
}

func write(t *testing.T, g *Region, p []byte, off int64) {
	t.Helper()
	if _, err := g.WriteAt(p, off); err != nil {
		t.Fatal(err)
	}
}

func TestTornAndLostWrites(t *testing.T) {
	image := NewImage()
	file := image.AddFile(3 * SectorBytes)
	r := NewRecorder(image)
	g := r.Region(file)
	write(t, g, sectors("ab"), 0)
	if err := g.Sync(); err != nil {
		t.Fatal(err)
	}
	write(t, g, sectors("c"), SectorBytes)
	write(t, g, sectors("d"), 2*SectorBytes)
	want := []string{"0", "0b0", "a0", "ab0", "abd", "ac0", "acd"}
	if got := contents(t, r, file); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSizeIsLostApart(t *testing.T) {
	image := NewImage()
	file := image.AddFile(SectorBytes)
	r := NewRecorder(image)
	r.record(Op{Kind: Write, Object: file, Offset: SectorBytes, Data: sectors("a")})
	// The size alone, the content alone (which does not show), both, neither.
	if got, want := contents(t, r, file), []string{"0", "0a"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	r.record(Op{Kind: Sync, Object: file})
	r.record(Op{Kind: Resize, Object: file})
	if got, want := contents(t, r, file), []string{"", "0", "0a"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMarksAndForgottenSyncs(t *testing.T) {
	image := NewImage()
	file := image.AddFile(SectorBytes)
	r := NewRecorder(image)
	g := r.Region(file)
	write(t, g, sectors("a"), 0)
	if err := g.Sync(); err != nil {
		t.Fatal(err)
	}
	r.Mark("durable")
	errLost := errors.New("lost")
	check := func(s *State) error {
		if s.Marked("durable") && s.Image.Content(file).bytes()[0] != 'a' {
			return errLost
		}
		return nil
	}
	if _, err := r.Explore(DefaultBudget(), check); err != nil {
		t.Error(err)
	}
	_, err := Explore(r.Initial(), Forget(r.Ops(), Syncs(file)), DefaultBudget(), check)
	if !errors.Is(err, errLost) || !strings.Contains(err.Error(), "forgotten: sync") {
		t.Errorf("without the sync: %v", err)
	}
}

func TestBudget(t *testing.T) {
	image := NewImage()
	file := image.AddFile(20 * SectorBytes)
	r := NewRecorder(image)
	write(t, r.Region(file), sectors("abcdefghijklmnopqrst"), 0)
	extremes := map[int]bool{} // all 20 lost is the state before the write, which is not tried again
	report, err := r.Explore(Budget{Exhaustive: 8, Random: 50, Seed: 3}, func(s *State) error {
		extremes[s.Lost] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !extremes[0] || !extremes[1] || !extremes[19] || report.States < 60 || report.Exhaustive != 1 {
		t.Errorf("%s, lost %v", report, extremes)
	}
}

// replaceFile does what an atomic replacement does, and leaves out what skip names.
func replaceFile(f *Files, path, content, skip string) error {
	file, err := f.CreateTemp(filepath.Dir(path), "new-*")
	if err != nil {
		return err
	}
	if _, err := f.Write(file, []byte(content)); err != nil {
		return err
	}
	if skip != "file" {
		if err := f.Sync(file); err != nil {
			return err
		}
	}
	if err := errors.Join(file.Close(), f.Rename(file.Name(), path)); err != nil {
		return err
	}
	if skip != "directory" {
		return f.SyncDirectory(filepath.Dir(path))
	}
	return nil
}

// checkReplaced wants the newest content that a mark promised, or a later one.
func checkReplaced(t *testing.T, s *State) error {
	dir := t.TempDir()
	if err := s.Image.WriteTo(dir); err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(dir, "below", "file"))
	switch {
	case err != nil && !s.Marked("one"):
		return nil
	case err != nil:
		return err
	case string(content) == "two", string(content) == "one" && !s.Marked("two"):
		return nil
	}
	return fmt.Errorf("it holds %q after %v", content, s.Marks)
}

func TestFilesAndDirectories(t *testing.T) {
	for _, skip := range []string{"", "file", "directory"} {
		t.Run("without "+skip, func(t *testing.T) {
			root := t.TempDir()
			f, err := RecordFiles(root)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(root, "below", "file")
			if err := errors.Join(f.Mkdir(filepath.Dir(path), 0o700), f.SyncDirectory(root)); err != nil {
				t.Fatal(err)
			}
			for _, content := range []string{"one", "two"} {
				if err := replaceFile(f, path, content, skip); err != nil {
					t.Fatal(err)
				}
				f.Mark("%s", content)
			}
			report, err := f.Explore(DefaultBudget(), func(s *State) error { return checkReplaced(t, s) })
			if (err == nil) != (skip == "") {
				t.Errorf("%s, error %v", report, err)
			}
			t.Log(report)
		})
	}
}

func TestKilledProcessLosesNothing(t *testing.T) {
	root := t.TempDir()
	f, err := RecordFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(f, filepath.Join(root, "file"), "one", "directory"); err != nil {
		t.Fatal(err)
	}
	next := t.TempDir()
	again, err := f.ResumeFiles(next, len(f.Ops()))
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(next, "file"))
	if err != nil || string(content) != "one" {
		t.Fatalf("%q, %v", content, err)
	}
	if err := again.SyncDirectory(next); err != nil {
		t.Fatal(err)
	}
	again.Mark("durable")
	_, err = again.Explore(DefaultBudget(), func(s *State) error {
		if _, err := s.Image.lookup([]string{"file"}); err != nil && s.Marked("durable") {
			return err
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
