package quorum

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// firstSuspicion is how long after its own start a node suspects nobody: the others have to find it first.
const firstSuspicion = time.Second

// hearing is what this node has heard of the others, and what follows (docs/TAKEOVER.md section 1). It is told the time.
type hearing struct {
	self    string
	suspect time.Duration

	mu     sync.Mutex
	begun  time.Time
	looked time.Time // when look was called last; zero: never
	nodes  map[string]*heard
}

// heard is what is known of one node.
type heard struct {
	at          time.Time // when it showed a sign of life last
	incarnation uint64    // of the newest beat
	refused     bool      // its port refused a connection since
	exited      uint64    // the newest incarnation that has certainly ended
	suspects    []string  // whom it suspects, by its newest beat
	registered  uint64    // the incarnation that the record has
}

func newHearing(self string, suspect time.Duration, now time.Time) *hearing {
	return &hearing{self: self, suspect: suspect, begun: now, nodes: map[string]*heard{}}
}

func (h *hearing) nodeLocked(name string) *heard {
	n := h.nodes[name]
	if n == nil {
		n = &heard{at: h.begun.Add(firstSuspicion)}
		h.nodes[name] = n
	}
	return n
}

// beat takes in a beat and reports whether it is news.
func (h *hearing) beat(b beat, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodeLocked(b.Node)
	if b.Incarnation < n.incarnation || b.Incarnation <= n.exited {
		return false // late, of a process that is gone
	}
	news := h.suspectedLocked(b.Node, now) || !slices.Equal(n.suspects, b.Suspects)
	n.at, n.incarnation, n.refused, n.suspects = later(n.at, now), b.Incarnation, false, b.Suspects
	return news
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// refuse notes that nobody listens where a node should be, and reports whether that is news.
func (h *hearing) refuse(name string, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Before(h.begun.Add(firstSuspicion)) {
		return false // it may be about to start, as this node is
	}
	n := h.nodeLocked(name)
	news := !h.suspectedLocked(name, now)
	n.refused = true
	return news
}

// exit notes that an incarnation of a node has certainly ended, and reports whether that is news.
func (h *hearing) exit(name string, incarnation uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodeLocked(name)
	if incarnation <= n.exited {
		return false
	}
	n.exited = incarnation
	return true
}

// look has to be called every interval. If it comes late, this process did not run, and could not hear: the time does not count.
func (h *hearing) look(now time.Time, interval time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if late := now.Sub(h.looked) - 2*interval; !h.looked.IsZero() && late > 0 {
		for _, n := range h.nodes {
			n.at = n.at.Add(late)
		}
	}
	h.looked = now
}

func (h *hearing) suspectedLocked(name string, now time.Time) bool {
	n := h.nodeLocked(name)
	return n.refused || n.exited > 0 && n.exited >= n.incarnation || now.Sub(n.at) > h.suspect
}

// Suspicion is what is held of one node.
type Suspicion struct {
	// Suspected by this node itself.
	Suspected bool
	// Votes is by how many voters it is suspected, this one included, as far as they are heard.
	Votes int
	// Exited is the newest incarnation that has certainly ended; 0: none.
	Exited uint64
}

// suspicions says what is held of every other node of names. voters are those whose word counts.
func (h *hearing) suspicions(names, voters []string, now time.Time) map[string]Suspicion {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := map[string]Suspicion{}
	for _, name := range names {
		if name == h.self {
			continue
		}
		s := Suspicion{Suspected: h.suspectedLocked(name, now), Exited: h.nodeLocked(name).exited}
		for _, voter := range voters {
			if voter == h.self && s.Suspected ||
				voter != h.self && voter != name && !h.suspectedLocked(voter, now) && slices.Contains(h.nodeLocked(voter).suspects, name) {
				s.Votes++
			}
		}
		all[name] = s
	}
	return all
}

// keep forgets the nodes that are not registered any more, and those that have joined again: their incarnations start anew, and what
// was known of the former ones would be held against the new.
func (h *hearing) keep(registered map[string]NodeRecord) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.nodes, func(name string, n *heard) bool {
		record, known := registered[name]
		again := record.Incarnation < n.registered
		n.registered = record.Incarnation
		return !known || again
	})
}
