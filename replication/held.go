package replication

import (
	"fmt"
	"strings"
)

// Generation is the one that this replica acts in: it tags its frames, and a Primary's acknowledgements are given in it.
func (v *Volume) Generation() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.generation
}

// Held says what the replica holds that only requests, resyncs and role changes under way need, "" for nothing. It is
// empty once nobody is Primary and the last barrier has ended: what grows with the load has to go with it.
func (r *Resource) Held() string {
	var held []string
	note := func(what string, n int) {
		if n != 0 {
			held = append(held, fmt.Sprintf("%d %s", n, what))
		}
	}
	err := r.call(r.ctx, func() {
		for _, l := range r.links {
			note("legs that wait for the removal of "+l.node, len(l.orphans))
		}
		r.volume.mu.Lock()
		defer r.volume.mu.Unlock()
		r.volume.heldLocked(note)
		for _, l := range r.links {
			if l.session != nil {
				l.session.heldLocked(note)
			}
		}
	})
	if err != nil {
		return "" // it is closed
	}
	return strings.Join(held, ", ")
}

func (v *Volume) heldLocked(note func(what string, n int)) {
	note("requests of clients", int(v.stats.upperPending.Load()))
	note("requests of the open epoch", v.inOpen)
	note("requests of earlier epochs", v.inClosing)
	note("parked requests", len(v.parked))
	note("halted requests", len(v.halted))
	note("requests whose disk failed", len(v.stuckLocal))
	note("flushes", len(v.flushes))
	note("locked ranges", v.ranges.entries)
	note("extents in the transfer log", v.log.extentCount())
	if v.barrier != nil {
		note("barrier", 1)
	}
	if v.local != nil {
		counts := v.local.store.Stats()
		note("held extents of the activity log", counts.HeldExtents)
		note("requests that wait for the activity log", counts.Waiting)
	}
}

func (s *session) heldLocked(note func(what string, n int)) {
	note("writes unanswered by "+s.peer, s.pending.count)
	note("reads unanswered by "+s.peer, s.reads.count)
	note("requests of "+s.peer+" being applied", s.applying)
	note("blocks being read for "+s.peer, len(s.resync.reading))
	note("blocks asked of "+s.peer, len(s.resync.flights))
}
