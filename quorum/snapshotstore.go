package quorum

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Names that raft.FileSnapshotStore gives.
const (
	snapshotsDir       = "snapshots"
	unfinishedSnapshot = ".tmp"
)

// snapshotStore is Raft's store of snapshots in files, with the one sync that it lacks: of the directory of a snapshot.
// Without it a crash may leave a snapshot that has its name and not all of its files, after the log that it replaces was
// cut; and when it is the only one, Raft does not start with it.
type snapshotStore struct {
	*raft.FileSnapshotStore
	files files
	dir   string
}

// openSnapshots opens, or makes, the snapshots in dir.
func openSnapshots(on files, dir string, logger hclog.Logger) (*snapshotStore, error) {
	inner, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, logger)
	if err != nil {
		return nil, err
	}
	s := &snapshotStore{FileSnapshotStore: inner, files: on, dir: filepath.Join(dir, snapshotsDir)}
	// A killed process may have left a name that is not durable, and the log is cut behind what is found now.
	return s, on.SyncDirectory(s.dir)
}

// Create implements raft.SnapshotStore. The files of a snapshot have their names from here on, and their content is synced
// by Raft before the directory gets its final name.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, transport raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.FileSnapshotStore.Create(version, index, term, configuration, configurationIndex, transport)
	if err != nil {
		return nil, err
	}
	if err := s.files.SyncDirectory(filepath.Join(s.dir, sink.ID()+unfinishedSnapshot)); err != nil {
		return nil, errors.Join(fmt.Errorf("sync a snapshot's directory: %w", err), sink.Cancel())
	}
	return sink, nil
}
