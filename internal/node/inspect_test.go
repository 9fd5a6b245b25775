package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"duet/internal/control"
	"duet/internal/device"
)

// stoppedReplica is a node that was stopped, with replicas of two resources: "in" has its metadata on the disk, "out" in a file.
type stoppedReplica struct {
	t        *testing.T
	node     *running
	disks    string
	metadata string // of "out"
}

const inspectedBytes = 8 << 20

func newStoppedReplica(t *testing.T) *stoppedReplica {
	t.Helper()
	s := &stoppedReplica{t: t, node: found(t, "a"), disks: t.TempDir()}
	for name, metadata := range map[string]string{"in": control.MetadataInternal, "out": ""} {
		_, err := s.node.client.ResourceCreate(t.Context(), &control.ResourceCreateRequest{Name: name, SizeBytes: inspectedBytes, Metadata: metadata,
			Replicas: []control.Replica{{Node: "a", Path: s.disk(name)}}, Ack: control.AckDurable})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.metadata = leftovers(t, filepath.Join(string(s.node.dir.Meta()), "out-*.meta"))[0]
	return s
}

func (s *stoppedReplica) disk(resource string) string { return filepath.Join(s.disks, resource+".img") }

// overwrite changes a file.
func (s *stoppedReplica) overwrite(path string, offset int64, content []byte) {
	s.t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = f.WriteAt(content, offset)
	if err := errors.Join(err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
}

// content is what a file holds; nothing if it is gone.
func (s *stoppedReplica) content(path string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return b
}

// inspect returns what was found as text, and fails if it has changed anything.
func (s *stoppedReplica) inspect(resource string) (*MetadataInspection, string) {
	s.t.Helper()
	paths := []string{s.disk("in"), s.disk("out"), s.metadata}
	var before [3][]byte
	for i, path := range paths {
		before[i] = s.content(path)
	}
	m, err := InspectMetadata(s.node.dir, resource)
	if err != nil {
		s.t.Fatal(err)
	}
	for i, path := range paths {
		if !bytes.Equal(before[i], s.content(path)) {
			s.t.Errorf("inspecting has changed %s", path)
		}
	}
	return m, fmt.Sprintf("%+v", m.Findings)
}

// The metadata of a resource are found wherever they are; what is wrong with them or with the disk is told, and how they are made anew
// only where nothing is lost by that.
func TestInspectMetadata(t *testing.T) {
	s := newStoppedReplica(t)
	_, err := InspectMetadata(s.node.dir, "out")
	refused(t, err, control.CodeRefused, "is locked")
	s.node.stop()
	_, err = InspectMetadata(s.node.dir, "other")
	refused(t, err, control.CodeNotFound, "it knows of: in, out")
	for _, resource := range []string{"in", "out"} {
		if m, text := s.inspect(resource); len(m.Findings) > 0 || m.Superblock == nil || m.Superblock.AttachCount != 4 || !m.Bitmap.Log.Clean || len(m.Remake) > 0 {
			t.Errorf("%s, undamaged: %s, %+v", resource, text, m)
		}
	}
	held, err := device.OpenRegionFile(s.metadata)
	if err != nil {
		t.Fatal(err)
	}
	_, err = InspectMetadata(s.node.dir, "out")
	refused(t, err, control.CodeRefused, "is locked")
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}

	noise := bytes.Repeat([]byte{7}, 8192)
	s.overwrite(s.disk("in"), inspectedBytes+100, noise[:8])
	m, text := s.inspect("in")
	if len(m.Findings) != 1 || m.Fatal() || m.Findings[0].OffsetBytes != 0 || m.OffsetBytes != inspectedBytes {
		t.Errorf("internal, one copy torn: %s", text)
	}
	s.overwrite(s.disk("in"), inspectedBytes, noise)
	m, _ = s.inspect("in")
	want := fmt.Sprintf("[{a duet run} {a duet resource show in} {a duet resource delete in} "+
		"{a duet resource create in --size 8MiB --on a=%s --metadata internal --ack durable --force}]", s.disk("in"))
	if got := fmt.Sprint(m.Remake); !m.Fatal() || got != want || m.Bitmap == nil {
		t.Errorf("internal, both copies torn: %s, want %s", got, want)
	}
	if err := os.Truncate(s.disk("in"), inspectedBytes-4096); err != nil {
		t.Fatal(err)
	}
	if m, text = s.inspect("in"); !m.Fatal() || len(m.Remake) > 0 || !strings.Contains(text, "the resource needs") {
		t.Errorf("a disk that is too small, the only one in sync: %s, %v", text, m.Remake)
	}
	if err := os.Remove(s.disk("in")); err != nil {
		t.Fatal(err)
	}
	if m, text = s.inspect("in"); !m.Fatal() || len(m.Remake) > 0 || !strings.Contains(text, "no such file") {
		t.Errorf("no disk, the only one in sync: %s, %v", text, m.Remake)
	}
}

// A disk that was restored without its metadata, and metadata that are gone.
func TestInspectMetadataApartFromTheirDisk(t *testing.T) {
	s := newStoppedReplica(t)
	s.node.stop()
	disk, err := device.Open(s.disk("out"))
	if err != nil {
		t.Fatal(err)
	}
	tagErr := disk.SetTag(9)
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	if m, text := s.inspect("out"); tagErr == nil && (len(m.Findings) != 1 || m.Fatal() || !strings.Contains(text, "has attach count 9, its metadata have ")) {
		t.Errorf("a restored disk: %s", text)
	}
	if err := os.Remove(s.metadata); err != nil {
		t.Fatal(err)
	}
	if m, text := s.inspect("out"); !m.Fatal() || len(m.Remake) == 0 || !strings.Contains(text, "no such file") || !strings.Contains(text, "no duet metadata") {
		t.Errorf("no metadata: %s, %v", text, m.Remake)
	}
}
