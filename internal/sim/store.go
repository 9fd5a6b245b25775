package sim

import (
	"fmt"

	"github.com/hashicorp/raft"

	"duet/quorum"
)

// newStorage is the store of the quorum on a machine: it keeps what it acknowledged.
func newStorage() *quorum.Storage {
	log := raft.NewInmemStore()
	return &quorum.Storage{Log: log, Stable: log, Snapshots: raft.NewInmemSnapshotStore()}
}

// storage is that store as a process has it open.
func (p *process) storage() *quorum.Storage {
	inner := p.machine.storage
	return &quorum.Storage{Log: openLog{inner.Log, p}, Stable: openStable{inner.Stable, p}, Snapshots: inner.Snapshots}
}

// openLog stops to write when its process is dead.
type openLog struct {
	raft.LogStore
	process *process
}

// StoreLog implements raft.LogStore.
func (l openLog) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (l openLog) StoreLogs(entries []*raft.Log) error {
	if l.process.dead() {
		return errGone
	}
	return l.LogStore.StoreLogs(entries)
}

// DeleteRange implements raft.LogStore.
func (l openLog) DeleteRange(first, last uint64) error {
	if l.process.dead() {
		return errGone
	}
	return l.LogStore.DeleteRange(first, last)
}

// openStable stops to write when its process is dead.
type openStable struct {
	raft.StableStore
	process *process
}

// Set implements raft.StableStore.
func (s openStable) Set(key, value []byte) error {
	if s.process.dead() {
		return errGone
	}
	return s.StableStore.Set(key, value)
}

// SetUint64 implements raft.StableStore.
func (s openStable) SetUint64(key []byte, value uint64) error {
	if s.process.dead() {
		return errGone
	}
	return s.StableStore.SetUint64(key, value)
}

// bootID changes when a machine has lost power.
func bootID(m *machine) string { return fmt.Sprintf("%s-boot-%d", m.name, m.boots.Load()) }
