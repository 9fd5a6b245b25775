package node

import (
	"path/filepath"
	"testing"

	"duet/internal/device"
	"duet/replication"
)

// formatInternal makes a disk with internal metadata behind a device of sizeBytes, and moreBytes behind that, and puts a
// text at the beginning, as a client would.
func formatInternal(t *testing.T, sizeBytes uint64, moreBytes int64, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk")
	metadataBytes := replication.MetadataBytes(sizeBytes, 0)
	_, d, err := device.Create(path, int64(sizeBytes)+metadataBytes+moreBytes)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	meta, err := d.Section(int64(sizeBytes), metadataBytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := replication.Format(meta, replication.FormatConfig{ClusterID: "c", Resource: "r", Node: "a", SizeBytes: sizeBytes}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt([]byte(text), 0); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFormerReplicaIsRecognised probes disks that were replicas, whatever their size and what is at their beginning.
func TestFormerReplicaIsRecognised(t *testing.T) {
	for _, c := range []struct {
		name      string
		sizeBytes uint64
		moreBytes int64
		text      string
		asked     uint64 // the size of the resource that is to be made now
	}{
		{"4 TiB in all", 4 << 40, 0, "", 1 << 30},
		{"4 TiB in all, with a filesystem", 4 << 40, 0, "XFSB", 1 << 30},
		{"4 TiB, a little room behind, empty", 4 << 40, 3 << 20, "", 1 << 30},
		{"the same size again, on a disk twice as large", 1 << 30, 1 << 30, "XFSB", 1 << 30},
		{"the smallest", 4096, 0, "XFSB", 1 << 30},
		{"no round size", 4097 * 4096, 0, "XFSB", 1 << 62},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := formatInternal(t, c.sizeBytes, c.moreBytes, c.text)
			if got, err := device.Probe(path, metadataStarts(c.asked)); err != nil || got != device.DuetMetadata {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// TestMetadataStartsOfWholeDisk: a disk that holds a device and its metadata and nothing else says how large the device was.
func TestMetadataStartsOfWholeDisk(t *testing.T) {
	for _, sizeBytes := range []uint64{4096, 1 << 20, 124 << 20, 124<<20 + 4096, 4097 * 4096, 1 << 40, 4 << 40, 64 << 40} {
		diskBytes := int64(sizeBytes) + replication.MetadataBytes(sizeBytes, 0)
		if starts := metadataStarts(0)(diskBytes); starts[0] != int64(sizeBytes) {
			t.Errorf("%d bytes: %d", sizeBytes, starts)
		}
	}
}

// TestMetadataStartsOfSmallDisks: disks without room for metadata have no impossible answers.
func TestMetadataStartsOfSmallDisks(t *testing.T) {
	for _, diskBytes := range []int64{0, 1, 4096, 4097, 70_000, replication.MetadataBytes(4096, 0)} {
		for _, start := range metadataStarts(4096)(diskBytes) {
			if start > diskBytes && start != 4096 {
				t.Errorf("%d bytes: %d", diskBytes, start)
			}
		}
	}
}
