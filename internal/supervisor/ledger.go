package supervisor

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Bounds of a supervisor's life.
const (
	lingerTime    = 15 * time.Second // nothing runs, nothing is owed: so long it waits for a new daemon
	repeatTime    = time.Minute      // how long a certificate is repeated to who does not take it; any lease is long over then
	terminateTime = 2 * time.Second  // the same after SIGTERM
	// maxEnded bounds the certificates that are owed at the same time: the newest are kept.
	maxEnded = 8
)

// ledger is what the supervisor has seen, and what it owes to whom. It is told the time, and does nothing else.
type ledger struct {
	peers      map[string]bool
	running    map[uint64]*process // by incarnation
	ended      []*certificate      // oldest first
	newest     uint64              // incarnation that registered
	idle       time.Time           // since when nothing runs; valid while nothing does
	terminated time.Time           // when it was told to end; zero: never
}

// process is one that is watched.
type process struct {
	pid     int
	orderly bool // it has said that its end is in good order
}

// certificate is an exit that was seen and is told to others.
type certificate struct {
	incarnation uint64
	at          time.Time
	owed        map[string]bool // to whom
}

func newLedger(now time.Time) *ledger {
	return &ledger{peers: map[string]bool{}, running: map[uint64]*process{}, idle: now}
}

// register notes that a process, which a pidfd is held of, runs as an incarnation. known says that it is watched already.
func (l *ledger) register(incarnation uint64, pid int) (known bool, err error) {
	p := l.running[incarnation]
	switch {
	case p != nil && p.pid == pid:
		p.orderly = false
		return true, nil
	case p != nil:
		return false, fmt.Errorf("incarnation %d is process %d", incarnation, p.pid)
	case incarnation <= l.newest:
		return false, fmt.Errorf("incarnation %d is not above %d, which has run here", incarnation, l.newest)
	}
	l.newest = incarnation
	l.running[incarnation] = &process{pid: pid}
	return false, nil
}

// orderly notes that the end of an incarnation, when it comes, is in good order.
func (l *ledger) orderly(incarnation uint64) {
	if p := l.running[incarnation]; p != nil {
		p.orderly = true
	}
}

// exited notes that the process of an incarnation was seen to exit, and reports whether that is to be certified.
func (l *ledger) exited(incarnation uint64, now time.Time) bool {
	p := l.running[incarnation]
	if p == nil {
		return false
	}
	l.drop(incarnation, now)
	if p.orderly {
		return false
	}
	l.ended = append(l.ended, &certificate{incarnation: incarnation, at: now, owed: maps.Clone(l.peers)})
	if len(l.ended) > maxEnded {
		l.ended = l.ended[1:]
	}
	return true
}

// drop gives a process up that can't be watched any more. Its exit is not seen, so never certified.
func (l *ledger) drop(incarnation uint64, now time.Time) {
	delete(l.running, incarnation)
	if len(l.running) == 0 {
		l.idle = now
	}
}

// setPeers says who the other nodes are now. Who is new is owed nothing: it granted nothing to who has exited.
func (l *ledger) setPeers(names []string) {
	l.peers = map[string]bool{}
	for _, name := range names {
		l.peers[name] = true
	}
	for _, c := range l.ended {
		maps.DeleteFunc(c.owed, func(name string, _ bool) bool { return !l.peers[name] })
	}
}

// owed returns what a peer has still to be told, oldest first.
func (l *ledger) owed(peer string) []uint64 {
	var incarnations []uint64
	for _, c := range l.ended {
		if c.owed[peer] {
			incarnations = append(incarnations, c.incarnation)
		}
	}
	return incarnations
}

// taken notes that a peer has taken a certificate, and returns how long that took.
func (l *ledger) taken(peer string, incarnation uint64, now time.Time) time.Duration {
	for _, c := range l.ended {
		if c.incarnation == incarnation {
			delete(c.owed, peer)
			return now.Sub(c.at)
		}
	}
	return 0
}

// current is the newest incarnation that runs, 0 for none.
func (l *ledger) current() uint64 {
	newest := uint64(0)
	for incarnation := range l.running {
		newest = max(newest, incarnation)
	}
	return newest
}

// terminate notes that the supervisor is told to end.
func (l *ledger) terminate(now time.Time) {
	if l.terminated.IsZero() {
		l.terminated = now
	}
}

// over forgets debts that are too old, and reports whether nothing keeps the supervisor any more.
func (l *ledger) over(now time.Time) bool {
	limit, linger := repeatTime, lingerTime
	if !l.terminated.IsZero() {
		limit, linger = terminateTime, 0
	}
	l.ended = slices.DeleteFunc(l.ended, func(c *certificate) bool {
		from := c.at
		if l.terminated.After(from) {
			from = l.terminated
		}
		return len(c.owed) == 0 || now.Sub(from) >= limit
	})
	return len(l.running) == 0 && len(l.ended) == 0 && now.Sub(l.idle) >= linger
}
