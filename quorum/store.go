package quorum

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
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

// files is what this package does to the file system beside its libraries. Tests record it.
type files interface {
	Rename(from, to string) error
	Remove(path string) error
	// Exchange gives each of two names what the other had, in one step.
	Exchange(one, other string) error
	// SyncFile makes the content of a file durable.
	SyncFile(file *os.File) error
	// SyncDirectory makes the names in a directory durable.
	SyncDirectory(path string) error
}

// osFiles is the real file system.
type osFiles struct{}

func (osFiles) Rename(from, to string) error { return os.Rename(from, to) }

func (osFiles) Exchange(one, other string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, one, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE); err != nil {
		return &os.LinkError{Op: "exchange", Old: one, New: other, Err: err}
	}
	return nil
}

func (osFiles) Remove(path string) error { return os.Remove(path) }

func (osFiles) SyncFile(file *os.File) error { return file.Sync() }

func (osFiles) SyncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

// openStorage opens, or makes, the files in dir.
func openStorage(on files, dir string, logger hclog.Logger) (*Storage, error) {
	if err := errors.Join(os.MkdirAll(dir, 0o700), on.SyncDirectory(filepath.Dir(dir))); err != nil {
		return nil, fmt.Errorf("quorum: %w", err)
	}
	path := filepath.Join(dir, logFile)
	if err := makeLog(on, path); err != nil {
		return nil, fmt.Errorf("quorum: make the Raft log %s: %w", path, err)
	}
	log, err := openLog(on, path)
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("quorum: %s is in use by another process", path)
	}
	if err != nil {
		return nil, fmt.Errorf("quorum: open the Raft log %s: %w", path, err)
	}
	snapshots, err := openSnapshots(on, dir, logger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("quorum: open the snapshots in %s: %w", dir, err), log.Close())
	}
	// Neither library syncs the names that it makes in dir. A log that is lost with its name takes votes and promises along.
	if err := on.SyncDirectory(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("quorum: sync %s: %w", dir, err), log.Close())
	}
	return &Storage{Log: log, Stable: log, Snapshots: snapshots, Close: log.Close}, nil
}

// makeLog makes the log file if there is none. It gets its name when it is complete and durable: bbolt refuses for ever a
// file that a crash left half made.
func makeLog(on files, path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	unfinished := path + ".new"
	if err := on.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	log, err := openLog(on, unfinished)
	if err != nil {
		return err
	}
	if err := log.Close(); err != nil {
		return err
	}
	if err := on.Rename(unfinished, path); err != nil {
		return err
	}
	return on.SyncDirectory(filepath.Dir(path))
}

// openLog opens the log file after a sync of it. What a killed process left may be readable and not durable, and bbolt
// goes on from what it reads: it writes over pages that a loss of power would make the newest again.
func openLog(on files, path string) (*raftboltdb.BoltStore, error) {
	open := func(name string, flag int, mode fs.FileMode) (*os.File, error) {
		file, err := os.OpenFile(name, flag, mode)
		if err != nil {
			return nil, err
		}
		if err := on.SyncFile(file); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		return file, nil
	}
	return raftboltdb.New(raftboltdb.Options{
		Path:                    path,
		BoltOptions:             &bbolt.Options{Timeout: lockWait, OpenFile: open},
		MsgpackUseNewTimeFormat: true,
	})
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
