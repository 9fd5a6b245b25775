package node

import (
	"os"
	"path/filepath"
	"testing"

	"duet/internal/config"
	"duet/internal/control"
	"duet/quorum"
)

// What a replacement prepared and could not commit is undone: nothing of it is left, and the former disk and metadata stay.
func TestReplacementIsUndone(t *testing.T) {
	dir := config.Dir(t.TempDir())
	if err := os.MkdirAll(dir.Meta(), 0o700); err != nil {
		t.Fatal(err)
	}
	n := &Node{dir: dir, config: &config.Node{Name: "n1", Kind: config.KindData, Cluster: "c"}}
	former := quorum.Replica{Node: "n1", Slot: 1, Path: filepath.Join(string(dir), "old.img"), Metadata: filepath.Join(dir.Meta(), "old.meta")}
	record := &quorum.Resource{Name: "r0", ID: quorum.ResourceID{1}, SizeBytes: 1 << 20, Replicas: []quorum.Replica{former}}
	path := filepath.Join(string(dir), "new.img")
	r := &replacement{record: record, former: former, request: &control.AttachRequest{Path: path}}
	for range 2 { // a name of its own each time
		if err := n.prepareReplacement(r); err != nil {
			t.Fatal(err)
		}
		command := quorum.ReplaceDisk{Node: "n1", Path: path, Metadata: metadataName(r.ready)}
		if r.committed(record, &command) || r.committed(nil, &command) {
			t.Error("taken for committed")
		}
		if err := r.ready.undo(); err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadDir(dir.Meta())
		if err != nil || len(left) > 0 {
			t.Fatalf("left over are %v, %v", left, err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Fatal("the new disk is left over")
		}
	}
}
