package quorum

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// fsm joins the pure state machine to Raft: it decodes, applies and publishes. Raft calls Apply, Snapshot and Restore
// from one goroutine; everything else may be called from anywhere.
type fsm struct {
	changed *broadcast // the record changed
	applied *broadcast // the index moved on, the record perhaps not

	mu    sync.Mutex
	state *State // immutable once published here
	index uint64 // of the newest command that state has in it
}

func newFSM(changed *broadcast) *fsm {
	return &fsm{changed: changed, applied: &broadcast{}, state: newState()}
}

// view returns what is applied. The State is shared and never changed.
func (f *fsm) view() (*State, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state, f.index
}

func (f *fsm) publish(s *State, index uint64) {
	f.mu.Lock()
	differs := f.state != s
	f.state, f.index = s, index
	f.mu.Unlock()
	f.applied.notify()
	if differs {
		f.changed.notify()
	}
}

// Apply implements raft.FSM. What it returns is the outcome that the proposer gets.
func (f *fsm) Apply(entry *raft.Log) any {
	state, _ := f.view()
	c, err := decodeCommand(entry.Data)
	if err != nil {
		// Committed all the same: every node of this version refuses it alike and goes on.
		f.publish(state, entry.Index)
		return outcome{Code: codeRefused, Reason: err.Error(), Result: Result{Index: entry.Index, Version: state.Version}}
	}
	next, out := apply(state, c)
	out.Result.Index = entry.Index
	f.publish(next, entry.Index)
	return out
}

// Snapshot implements raft.FSM. It costs nothing: the State is immutable, so a reference is a snapshot.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	state, index := f.view()
	return frozen{state: state, index: index}, nil
}

// Restore implements raft.FSM.
func (f *fsm) Restore(from io.ReadCloser) (err error) {
	defer func() {
		if closeErr := from.Close(); err == nil {
			err = closeErr
		}
	}()
	state, index, err := decodeSnapshot(from)
	if err != nil {
		return err
	}
	f.publish(state, index)
	return nil
}

// await waits until the command at index is applied here.
func (f *fsm) await(ctx context.Context, index uint64) error {
	for {
		moved := f.applied.wait()
		if _, at := f.view(); at >= index {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("quorum: waiting for log index %d to be applied here: %w", index, context.Cause(ctx))
		}
	}
}

// frozen is a State on its way to a snapshot file.
type frozen struct {
	state *State
	index uint64
}

// Persist implements raft.FSMSnapshot.
func (f frozen) Persist(sink raft.SnapshotSink) error {
	data, err := encodeSnapshot(f.state, f.index)
	if err == nil {
		_, err = sink.Write(data)
	}
	if err != nil {
		if cancelErr := sink.Cancel(); cancelErr != nil {
			return fmt.Errorf("%w (and its file could not be removed: %w)", err, cancelErr)
		}
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (frozen) Release() {}

// broadcast wakes every waiter at once. A waiter takes the channel first, then looks at what it waits for, then
// waits: so no change falls in between. The zero value is ready.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// wait returns a channel that the next notify closes.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) notify() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
