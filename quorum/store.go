package quorum

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// Storage is where Raft keeps its log, its vote and its snapshots. Close, if set, is called after the last use.
type Storage struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	Close     func() error
}

const (
	logFile = "log.db"
	// snapshotsKept: the newest, and one more in case the newest turns out to be unreadable.
	snapshotsKept = 2
	// lockWait bounds the wait for the lock of the log file, which another daemon in the same directory would hold.
	lockWait = 2 * time.Second
)

// openStorage opens, or makes, the files in dir.
func openStorage(dir string, logger hclog.Logger) (*Storage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("quorum: %w", err)
	}
	path := filepath.Join(dir, logFile)
	log, err := raftboltdb.New(raftboltdb.Options{
		Path:                    path,
		BoltOptions:             &bbolt.Options{Timeout: lockWait},
		MsgpackUseNewTimeFormat: true,
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("quorum: %s is in use by another process", path)
	}
	if err != nil {
		return nil, fmt.Errorf("quorum: open the Raft log %s: %w", path, err)
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, logger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("quorum: open the snapshots in %s: %w", dir, err), log.Close())
	}
	// Neither library syncs the names that it makes in dir. A log that is lost with its name takes votes and promises along.
	if err := syncDirectory(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("quorum: sync %s: %w", dir, err), log.Close())
	}
	return &Storage{Log: log, Stable: log, Snapshots: snapshots, Close: log.Close}, nil
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

// checked reports what a caller's Storage lacks.
func (s *Storage) checked() (*Storage, error) {
	if s.Log == nil || s.Stable == nil || s.Snapshots == nil {
		return nil, errors.New("quorum: config: Storage needs Log, Stable and Snapshots")
	}
	return s, nil
}

func (s *Storage) close() error {
	if s.Close == nil {
		return nil
	}
	return s.Close()
}
