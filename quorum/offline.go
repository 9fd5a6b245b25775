package quorum

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// ReadOffline returns the record as the Raft files in dir have it, and changes nothing. No Node may run there. The record may lack
// what the others have committed since, and contain the newest commands although they are not committed: it is for finding things.
func ReadOffline(dir string) (*State, error) {
	f := newFSM(&broadcast{})
	if err := restoreNewest(f, filepath.Join(dir, "snapshots")); err != nil {
		return nil, fmt.Errorf("quorum: read the record in %s: %w", dir, err)
	}
	if err := replayLog(f, filepath.Join(dir, logFile)); err != nil {
		return nil, fmt.Errorf("quorum: read the record in %s: %w", dir, err)
	}
	state, _ := f.view()
	return state, nil
}

// restoreNewest gives the state machine the newest snapshot that can be read. There need not be one.
func restoreNewest(f *fsm, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var failures error
	restored := false
	for _, entry := range entries {
		if !entry.IsDir() || strings.HasSuffix(entry.Name(), ".tmp") {
			continue // Raft was interrupted when it wrote that one
		}
		state, index, err := readSnapshot(filepath.Join(dir, entry.Name(), "state.bin"))
		if err != nil {
			failures = errors.Join(failures, err)
			continue
		}
		if _, newest := f.view(); !restored || index > newest {
			f.publish(state, index)
			restored = true
		}
	}
	if restored {
		return nil
	}
	return failures
}

func readSnapshot(path string) (*State, uint64, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	state, index, err := decodeSnapshot(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	return state, index, nil
}

// replayLog applies what the log has behind the snapshot.
func replayLog(f *fsm, path string) (err error) {
	if _, err := os.Stat(path); err != nil {
		return err // opening would not make it either, but say so less clearly
	}
	log, err := raftboltdb.New(raftboltdb.Options{
		Path: path, BoltOptions: &bbolt.Options{Timeout: lockWait, ReadOnly: true}, MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return fmt.Errorf("open the Raft log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	_, applied := f.view()
	for index := max(first, applied+1); index <= last; index++ {
		var entry raft.Log
		if err := log.GetLog(index, &entry); err != nil {
			return fmt.Errorf("log entry %d: %w", index, err)
		}
		if entry.Type == raft.LogCommand {
			f.Apply(&entry)
		}
	}
	return nil
}
