package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"duet/internal/crash"
)

// The crash tests record what is done to a node's directory, and look at all that a loss of power may leave of it. The
// directory is two levels below one that was there before.
const below = "new/node"

// site is a directory in which a run is recorded.
type site struct {
	*crash.Files
	dir Dir
}

func newSite(t *testing.T) *site {
	t.Helper()
	root := t.TempDir()
	recorded, err := crash.RecordFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	return &site{recorded, Dir(filepath.Join(root, below))}
}

// killed is the site after a process was killed behind its first n operations, for another process.
func (s *site) killed(t *testing.T, n int) *site {
	t.Helper()
	root := t.TempDir()
	recorded, err := s.ResumeFiles(root, n)
	if err != nil {
		t.Fatal(err)
	}
	return &site{recorded, Dir(filepath.Join(root, below))}
}

// onceOnDisk is onDisk for states that differ in more than the temporary files that nobody reads.
func onceOnDisk(seen map[string]bool, state *crash.State, check func(d Dir) error) error {
	digest := state.Image.Digest(func(name string) bool { return strings.HasPrefix(name, ".") })
	key := fmt.Sprint(digest, state.Marks)
	if seen[key] {
		return nil
	}
	seen[key] = true
	return onDisk(state, check)
}

// onDisk calls check with the node's directory that a crash left, and removes it again.
func onDisk(state *crash.State, check func(d Dir) error) (err error) {
	root, err := os.MkdirTemp("", "crash-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	if err := state.Image.WriteTo(root); err != nil {
		return err
	}
	return check(Dir(filepath.Join(root, below)))
}

// highest is the highest number that was marked.
func highest(s *crash.State) (most uint64) {
	for _, mark := range s.Marks {
		if number, err := strconv.ParseUint(mark, 10, 64); err == nil {
			most = max(most, number)
		}
	}
	return most
}

func membership(t *testing.T) Membership {
	t.Helper()
	ca, identity := newIdentity(t)
	node := fullNode()
	return Membership{Node: node, Authority: ca, Identity: identity, Incarnation: 7, Recovery: 3}
}

// checkInstalled wants a whole node, or none and room for one.
func (m Membership) checkInstalled(s *crash.State, d Dir) error {
	exists, err := d.Exists()
	if err != nil {
		return err
	}
	if !exists {
		if s.Marked("installed") {
			return errors.New("the node is gone")
		}
		return m.installAgain(d)
	}
	for _, path := range []string{d.Raft(), d.Meta(), d.Handlers()} {
		if _, err := os.ReadDir(path); err != nil {
			return err
		}
	}
	node, err := d.LoadNode()
	if err != nil {
		return err
	}
	if node.Name != m.Node.Name {
		return fmt.Errorf("it is node %q", node.Name)
	}
	if _, err := d.LoadAuthority(); err != nil {
		return err
	}
	if _, err := d.LoadCredentials(); err != nil {
		return err
	}
	if recovery, err := d.Recovery(); err != nil || recovery != m.Recovery {
		return fmt.Errorf("recovery %d: %w", recovery, err)
	}
	incarnation, err := d.Incarnation()
	if want := max(m.Incarnation, highest(s)); err == nil && incarnation < want {
		err = fmt.Errorf("incarnation %d, want %d or more", incarnation, want)
	}
	return err
}

// installAgain shows that what was left is not in the way.
func (m Membership) installAgain(d Dir) error {
	root := strings.TrimSuffix(string(d), below)
	on, err := crash.RecordFiles(filepath.Clean(root)) // the syncs are only recorded, which is quicker
	if err != nil {
		return err
	}
	if err := errors.Join(d.create(on), d.install(on, m)); err != nil {
		return err
	}
	_, err = d.LoadCredentials()
	return err
}

// become makes a directory that of a node, if it isn't, and counts two starts.
func (s *site) become(m Membership) error {
	exists, err := s.dir.Exists()
	if err != nil {
		return err
	}
	if !exists {
		if err := errors.Join(s.dir.create(s), s.dir.install(s, m)); err != nil {
			return err
		}
		s.Mark("installed")
	}
	for range 2 {
		number, err := s.dir.bumpIncarnation(s)
		if err != nil {
			return err
		}
		// Whoever counts starts is a node, and known to others as such.
		s.Mark("installed")
		s.Mark("%d", number)
	}
	return nil
}

// TestCrashWhileInstalling stops init or join, and the first starts, everywhere: power lost, or killed at any point,
// done again, and power lost then.
func TestCrashWhileInstalling(t *testing.T) {
	m := membership(t)
	s := newSite(t)
	if err := s.become(m); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	check := func(state *crash.State) error {
		return onceOnDisk(seen, state, func(d Dir) error { return m.checkInstalled(state, d) })
	}
	total, err := s.Explore(crash.DefaultBudget(), check)
	if err != nil {
		t.Fatal(err)
	}
	for n := range s.Ops() {
		again := s.killed(t, n)
		if err := again.become(m); err != nil {
			t.Fatal(err)
		}
		report, err := again.Explore(crash.Budget{Exhaustive: 8, Random: 64, Seed: uint64(n), From: n + 1}, check)
		if err != nil {
			t.Fatalf("killed after %d operations, then: %v", n, err)
		}
		total.Add(report)
	}
	t.Logf("explored %s; %d differ in what is read", total, len(seen))
}

// TestCrashExplorationNoticesMissingSyncs leaves out one kind of sync at a time.
func TestCrashExplorationNoticesMissingSyncs(t *testing.T) {
	m := membership(t)
	s := newSite(t)
	if err := s.become(m); err != nil {
		t.Fatal(err)
	}
	root := strings.TrimSuffix(string(s.dir), "/"+below)
	for name, path := range map[string]string{
		"of the directory above the new ones": root, "of the new directory above": root + "/new", "of the node's directory": string(s.dir),
		"of tls": s.dir.TLS(), "of node.yaml": s.dir.path(".node.yaml"), "of a certificate": s.dir.path("tls/.node.crt"),
		"of the incarnation": s.dir.path(".incarnation"),
	} {
		t.Run(name, func(t *testing.T) {
			forgotten, seen := 0, map[string]bool{}
			ops := crash.Forget(s.Ops(), func(op crash.Op) bool {
				hit := op.Kind == crash.Sync && (op.Path == path || strings.HasPrefix(op.Path, path+".new"))
				if hit {
					forgotten++
				}
				return hit
			})
			report, err := crash.Explore(s.Initial(), ops, crash.DefaultBudget(), func(state *crash.State) error {
				return onceOnDisk(seen, state, func(d Dir) error { return m.checkInstalled(state, d) })
			})
			if err == nil || forgotten == 0 {
				t.Errorf("%d syncs forgotten, and nothing noticed in %s", forgotten, report)
			}
		})
	}
}

// TestCrashWhileReplacing replaces a file that is longer than a sector, also by a shorter one.
func TestCrashWhileReplacing(t *testing.T) {
	root := t.TempDir()
	recorded, err := crash.RecordFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	var contents []string
	for i, size := range []int{700, 1600, 10} {
		contents = append(contents, strings.Repeat(strconv.Itoa(i), size))
		if err := writeFile(recorded, filepath.Join(root, "file"), []byte(contents[i]), 0o600); err != nil {
			t.Fatal(err)
		}
		recorded.Mark("%d", i)
	}
	report, err := recorded.Explore(crash.DefaultBudget(), func(s *crash.State) error {
		return onDisk(s, func(d Dir) error {
			content, err := os.ReadFile(filepath.Join(strings.TrimSuffix(string(d), below), "file"))
			if errors.Is(err, os.ErrNotExist) && len(s.Marks) == 0 {
				return nil
			}
			for i := max(0, len(s.Marks)-1); i < len(contents); i++ {
				if string(content) == contents[i] {
					return nil
				}
			}
			return fmt.Errorf("%d bytes after %v: %w", len(content), s.Marks, err)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("explored %s", report)
}
