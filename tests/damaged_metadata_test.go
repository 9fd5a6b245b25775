package tests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"duet/tests/cluster"
)

// Metadata and disks that were damaged, swapped or cut while a daemon was down are noticed when it comes back: either
// nothing is lost and it goes on, or it says what is wrong, takes no part, and leaves everything as it was. The other
// node goes on in both cases, and never are two differing disks called UpToDate.
func TestDamagedMetadata(t *testing.T) {
	tests := []struct {
		name   string
		damage func(*scenario)
		heals  bool // the replica becomes UpToDate by itself, at most by a resync
	}{
		{"one superblock copy torn", func(s *scenario) { s.overwrite(s.metadata("b", "r0"), 100, 200) }, true},
		{"both superblock copies torn", func(s *scenario) {
			s.overwrite(s.metadata("b", "r0"), 0, 4096)
			s.overwrite(s.metadata("b", "r0"), 4096, 4096)
		}, false},
		{"metadata truncated", func(s *scenario) { s.truncate(s.metadata("b", "r0"), 5000) }, false},
		{"metadata empty", func(s *scenario) { s.truncate(s.metadata("b", "r0"), 0) }, false},
		{"metadata gone", func(s *scenario) { s.remove(s.metadata("b", "r0")) }, false},
		{"metadata of another resource", func(s *scenario) {
			s.copyFile(s.metadata("b", "r1"), s.metadata("b", "r0"))
		}, false},
		{"metadata of another node", func(s *scenario) {
			s.copyFile(s.metadata("a", "r0"), s.metadata("b", "r0"))
		}, false},
		{"disk became smaller", func(s *scenario) { s.truncate(s.Disk("b", "r0"), 32<<20) }, false},
		{"disk gone", func(s *scenario) { s.remove(s.Disk("b", "r0")) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t)
			s.create("r0", "64MiB")
			s.create("r1", "64MiB")
			a, b := s.Node("a"), s.Node("b")
			r := newRecorder(0, 4096)
			l := r.begin(t, a.URI("r0"))
			l.waitWrites(t, 200)
			s.stop(b)
			s.inSyncAre(a, "a")
			path := s.metadata("b", "r0")
			tt.damage(s)
			damaged := s.bytesOf(path)
			if err := b.Run(); err != nil {
				t.Fatal(err)
			}
			if tt.heals {
				s.inSync("r0")
			} else {
				s.complains(b, "r0")
				if now := s.bytesOf(path); !bytes.Equal(now, damaged) {
					t.Error("the damaged metadata were written to")
				}
			}
			l.waitWrites(t, 100)
			if err := l.end(); err != nil {
				t.Fatal(err)
			}
			r.verify(t, a.URI("r0"))
			if tt.heals {
				s.identical("r0")
			}
		})
	}
}

// Metadata of another cluster are recognized too.
func TestMetadataOfAnotherCluster(t *testing.T) {
	s, other := start(t), start(t)
	s.create("r0", "64MiB")
	other.create("r0", "64MiB")
	s.stop(s.Node("b"))
	other.stop(other.Node("b"))
	s.copyFile(other.metadata("b", "r0"), s.metadata("b", "r0"))
	if err := s.Node("b").Run(); err != nil {
		t.Fatal(err)
	}
	s.complains(s.Node("b"), "r0")
}

// complains waits until the node says why it takes no part in a resource: in its status, or by refusing to start with a
// line in its log.
func (s *scenario) complains(n *cluster.Node, resource string) {
	s.t.Helper()
	s.within(settleTimeout, func(ctx context.Context) error {
		return cluster.WaitFor(ctx, "a complaint of "+n.Name, func() error {
			if !n.Running() {
				return nil
			}
			r, err := n.Resource(ctx, resource)
			if err != nil {
				return err
			}
			if r.DiskState() == "UpToDate" || slices.Contains(r.InSync, n.Name) {
				s.t.Fatalf("the disk is %s, in sync are %v", r.DiskState(), r.InSync)
			}
			if r.Reason == "" {
				return errors.New("no reason is given")
			}
			s.t.Logf("says: %s", r.Reason)
			return nil
		})
	})
	if log, err := n.Log(); err != nil || strings.Contains(log, "panic:") {
		s.t.Errorf("the daemon panicked, or its log can't be read: %v", err)
	}
}

// metadata is the file with a node's metadata of a resource.
func (s *scenario) metadata(node, resource string) string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.Node(node).Dir, "meta", resource+"*"))
	if err != nil || len(found) != 1 {
		s.t.Fatalf("metadata of %s on %s: %v %v", resource, node, found, err)
	}
	return found[0]
}

// bytesOf is what a file holds; nothing when it is gone.
func (s *scenario) bytesOf(path string) []byte {
	s.t.Helper()
	p, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return p
}

// overwrite puts noise into a file.
func (s *scenario) overwrite(path string, offset int64, length int) {
	s.t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xdb}, length), offset); err != nil {
		s.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scenario) truncate(path string, sizeBytes int64) {
	s.t.Helper()
	if err := os.Truncate(path, sizeBytes); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scenario) remove(path string) {
	s.t.Helper()
	if err := os.Remove(path); err != nil {
		s.t.Fatal(err)
	}
}

// copyFile replaces what a file holds by what another holds. The metadata of a few megabytes fit into memory.
func (s *scenario) copyFile(from, to string) {
	s.t.Helper()
	if err := os.WriteFile(to, s.bytesOf(from), 0o600); err != nil {
		s.t.Fatal(fmt.Errorf("copy %s: %w", filepath.Base(from), err))
	}
}
