package node

import (
	"context"
	"sync"
	"time"

	"duet/internal/control"
)

// journalEvents is how many events a daemon remembers.
const journalEvents = 1024

// journal keeps the newest events and wakes those who follow it.
type journal struct {
	mu       sync.Mutex
	node     string
	events   []control.Event
	sequence uint64
	changed  chan struct{}
}

func newJournal(node string) *journal {
	return &journal{node: node, changed: make(chan struct{})}
}

// add appends e; the oldest event makes room.
func (j *journal) add(e control.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.sequence++
	e.Sequence, e.Node = j.sequence, j.node
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if len(j.events) == journalEvents {
		j.events = j.events[1:]
	}
	j.events = append(j.events, e)
	close(j.changed)
	j.changed = make(chan struct{})
}

// after returns the events behind a sequence number and what tells of the next.
func (j *journal) after(sequence uint64) ([]control.Event, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var newer []control.Event
	for _, e := range j.events {
		if e.Sequence > sequence {
			newer = append(newer, e)
		}
	}
	return newer, j.changed
}

// Events implements control.Node.
func (n *Node) Events(ctx context.Context, r control.EventsRequest, emit func(control.Event) error) error {
	for last := uint64(0); ; {
		events, changed := n.journal.after(last)
		for _, e := range events {
			last = e.Sequence
			if r.Resource != "" && e.Resource != r.Resource {
				continue
			}
			if err := emit(e); err != nil {
				return err
			}
		}
		if !r.Follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
