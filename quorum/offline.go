package quorum

import (
	"encoding/json"
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

// Offline is what the Raft files of a node that is stopped say. It may lack what the others have committed since, and contain the newest
// commands although they are not committed: it is for finding things.
type Offline struct {
	State  *State
	Voters map[string]string // address by name
	Index  uint64            // of the newest log entry
	Term   uint64            // in which that was made
}

// ReadOffline returns the record as the Raft files in dir have it, and changes nothing. No Node may run there.
func ReadOffline(dir string) (*State, error) {
	o, err := SurveyOffline(dir)
	if err != nil {
		return nil, err
	}
	return o.State, nil
}

// SurveyOffline returns the record and the voters as the Raft files in dir have them, and changes nothing. No Node may run there.
func SurveyOffline(dir string) (*Offline, error) {
	f, o := newFSM(&broadcast{}), &Offline{Voters: map[string]string{}}
	if err := restoreNewest(f, filepath.Join(dir, snapshotsDir)); err != nil {
		return nil, fmt.Errorf("quorum: read the record in %s: %w", dir, err)
	}
	if err := o.readConfiguration(filepath.Join(dir, snapshotsDir)); err != nil {
		return nil, fmt.Errorf("quorum: read the voters in %s: %w", dir, err)
	}
	if err := o.replayLog(f, filepath.Join(dir, logFile)); err != nil {
		return nil, fmt.Errorf("quorum: read the record in %s: %w", dir, err)
	}
	o.State, _ = f.view()
	return o, nil
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
		if !isSnapshot(entry) {
			continue
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

// isSnapshot leaves out what Raft was interrupted in writing.
func isSnapshot(entry os.DirEntry) bool {
	return entry.IsDir() && !strings.HasSuffix(entry.Name(), unfinishedSnapshot)
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

// readConfiguration takes the voters from the newest snapshot that says who they are.
func (o *Offline) readConfiguration(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if !isSnapshot(entry) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, entry.Name(), "meta.json"))
		if err != nil {
			return err
		}
		var meta raft.SnapshotMeta
		if err := json.Unmarshal(content, &meta); err != nil {
			return fmt.Errorf("%s: %w", entry.Name(), err)
		}
		if meta.Index >= o.Index {
			o.Index, o.Term = meta.Index, meta.Term
			o.configure(meta.Configuration)
		}
	}
	return nil
}

func (o *Offline) configure(c raft.Configuration) {
	clear(o.Voters)
	for _, server := range c.Servers {
		if server.Suffrage == raft.Voter {
			o.Voters[string(server.ID)] = string(server.Address)
		}
	}
}

// replayLog applies what the log has behind the snapshot.
func (o *Offline) replayLog(f *fsm, path string) (err error) {
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
	for index := max(first, min(applied, o.Index)+1); index <= last; index++ {
		var entry raft.Log
		if err := log.GetLog(index, &entry); err != nil {
			return fmt.Errorf("log entry %d: %w", index, err)
		}
		switch {
		case entry.Type == raft.LogCommand && index > applied:
			f.Apply(&entry)
		case entry.Type == raft.LogConfiguration && index > o.Index:
			o.configure(raft.DecodeConfiguration(entry.Data))
		}
		if index > o.Index {
			o.Index, o.Term = index, entry.Term
		}
	}
	return nil
}
