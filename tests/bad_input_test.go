package tests

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"duet/tests/cluster"
)

// Exit statuses of the command line.
const (
	exitRefused     = 1
	exitUsage       = 2
	exitUnreachable = 3
)

// refusal is a command that must be refused: with one clear line, the right exit status, and without effect.
type refusal struct {
	name      string
	node      string // where it is said; a when empty
	arguments []string
	code      int
	words     []string // that the line must hold, in any letter case
}

// Commands that make no sense, come at the wrong time or would destroy something are refused.
func TestBadCommands(t *testing.T) {
	needs(t, "mkfs.ext4")
	s := start(t)
	s.create("r0", "16MiB") // small, since it is read after every command
	file := func(name string) string { return filepath.Join(s.dir, name) }
	s.makeFile(file("small.img"), 1<<20)
	s.makeFile(file("ext4.img"), 64<<20)
	run(t, "mkfs.ext4", "-q", "-F", file("ext4.img"))
	on := func(node, path string) string { return node + "=" + path }
	create := func(rest ...string) []string { return append([]string{"resource", "create", "r1"}, rest...) }

	refusals := []refusal{
		{"unknown command", "a", []string{"frobnicate"}, exitUsage, []string{"frobnicate"}},
		{"unknown flag", "a", []string{"status", "--frobnicate"}, exitUsage, []string{"frobnicate"}},
		{"create without a size", "a", create("--on", on("a", file("n1"))), exitUsage, []string{"size"}},
		{"create with a size that is none", "a", create("--size", "12zz", "--on", on("a", file("n1"))), exitUsage, []string{"12zz"}},
		{"create with size zero", "a", create("--size", "0", "--on", on("a", file("n1"))), 0, []string{"size"}},
		{"create on an unknown node", "a",
			create("--size", "64MiB", "--on", on("a", file("n2")), "--on", on("zz", file("n3"))), exitRefused, []string{"zz"}},
		{"create on the witness", "a",
			create("--size", "64MiB", "--on", on("a", file("n2")), "--on", on("witness", file("n3"))), exitRefused, []string{"witness"}},
		{"create twice on one node", "a",
			create("--size", "64MiB", "--on", on("a", file("n2")), "--on", on("a", file("n3"))), 0, []string{"a"}},
		{"create on a file that is too small", "a",
			create("--size", "64MiB", "--on", on("a", file("n4")), "--on", on("b", file("small.img"))), exitRefused, []string{"small.img"}},
		{"create on a disk that is in use", "a",
			create("--size", "64MiB", "--on", on("a", file("n5")), "--on", on("b", s.Disk("b", "r0"))), exitRefused, []string{"r0.img"}},
		{"create on a disk another daemon uses", "a",
			create("--size", "64MiB", "--on", on("a", s.Disk("b", "r0")), "--on", on("b", file("n6"))), exitRefused, []string{"r0.img"}},
		{"create on a file system", "a",
			create("--size", "64MiB", "--on", on("a", file("n7")), "--on", on("b", file("ext4.img"))), exitRefused, []string{"ext4", "--force"}},
		{"create in a folder that is not there", "a",
			create("--size", "64MiB", "--on", on("a", file("n8")), "--on", on("b", file("none/disk"))), exitRefused, []string{"none"}},
		{"create what exists", "a",
			[]string{"resource", "create", "r0", "--size", "64MiB", "--on", on("a", file("n9")), "--on", on("b", file("n10"))}, exitRefused, []string{"r0"}},
		{"primary of nothing", "a", []string{"primary", "nothing"}, exitRefused, []string{"nothing"}},
		{"primary without a name", "a", []string{"primary"}, exitUsage, nil},
		{"primary while another is", "b", []string{"primary", "r0"}, exitRefused, []string{"primary", "a"}},
		{"status of nothing", "a", []string{"status", "nothing"}, exitRefused, []string{"nothing"}},
		{"resync status of nothing", "a", []string{"resync", "status", "nothing"}, exitRefused, []string{"nothing"}},
		{"disconnect from nobody", "a", []string{"disconnect", "r0", "zz"}, exitRefused, []string{"zz"}},
		{"init where a node is", "a", []string{"init", "--name", "x"}, exitRefused, nil},
		{"join where a node is", "a", []string{"join", "--name", "x", "duet1-x"}, exitRefused, nil},
		{"a second daemon in one directory", "a", []string{"run"}, exitRefused, nil},
	}
	before := s.fingerprint()
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			s := &scenario{Cluster: s.Cluster, t: t, dir: s.dir}
			s.refused(s.Node(r.node), r)
			if after := s.fingerprint(); after != before {
				t.Errorf("something changed:\n%s\nafter:\n%s", before, after)
			}
		})
	}
	t.Run("any command without a daemon", func(t *testing.T) {
		s := &scenario{Cluster: s.Cluster, t: t, dir: s.dir}
		s.kill(s.Node("b"))
		s.refused(s.Node("b"), refusal{arguments: []string{"status"}, code: exitUnreachable})
	})
}

// refused runs a command and checks that it is refused as it should be. Code 0 stands for 1 or 2: some mistakes can be
// seen by the command line or by the daemon.
func (s *scenario) refused(n *cluster.Node, r refusal) {
	s.t.Helper()
	result, err := n.Command(s.t.Context(), r.arguments...)
	if err != nil {
		s.t.Fatal(err)
	}
	if result.ExitCode != r.code && (r.code != 0 || result.ExitCode != exitRefused && result.ExitCode != exitUsage) {
		s.t.Errorf("exit status %d, want %d", result.ExitCode, r.code)
	}
	said := strings.TrimSpace(result.Stderr)
	s.t.Logf("says: %s", said)
	if said == "" {
		s.t.Error("says nothing")
	}
	if lines := strings.Count(said, "\n") + 1; lines > 3 && r.code != exitUsage {
		s.t.Errorf("says it in %d lines", lines)
	}
	for _, trace := range []string{"panic", "goroutine ", ".go:"} {
		if strings.Contains(said, trace) {
			s.t.Errorf("says it in the words of a programmer: %s", said)
		}
	}
	for _, word := range r.words {
		if !strings.Contains(strings.ToLower(said), strings.ToLower(word)) {
			s.t.Errorf("does not mention %q", word)
		}
	}
}

// fingerprint is what a refused command must not change: the resources with their generations, every file of the
// scenario outside the nodes' own directories, and the daemons that run.
func (s *scenario) fingerprint() string {
	s.t.Helper()
	var b strings.Builder
	for _, n := range s.Nodes {
		fmt.Fprintf(&b, "%s runs: %v\n", n.Name, n.Running())
	}
	status, err := s.Node("a").Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range status.Resources {
		fmt.Fprintf(&b, "%s: %s, generation %d, in sync %v\n", r.Name, r.Role, r.Generation, r.InSync)
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, path := range files {
		if info, err := os.Stat(path); err != nil {
			s.t.Fatal(err)
		} else if info.Mode().IsRegular() && !strings.HasSuffix(path, ".log") {
			fmt.Fprintf(&b, "%s: %d bytes, %x\n", filepath.Base(path), info.Size(), s.hash(path))
		}
	}
	return b.String()
}

func (s *scenario) hash(path string) []byte {
	s.t.Helper()
	f, err := os.Open(path)
	if err != nil {
		s.t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		s.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
	return h.Sum(nil)
}

// makeFile makes a file that is one hole.
func (s *scenario) makeFile(path string, sizeBytes int64) {
	s.t.Helper()
	f, err := os.Create(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := f.Truncate(sizeBytes); err != nil {
		s.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
}
