package replication

import (
	"fmt"
	"strings"
	"time"
)

// Status is a snapshot of one resource on this node. It is the one source of text, JSON and metrics.
type Status struct {
	Resource   string
	Role       string // Primary, Secondary
	DiskState  string // DRBD's words, see diskState
	Serving    bool   // requests of clients are answered
	Suspended  bool
	ByOperator bool      // the operator has suspended it, whatever else makes it wait
	Until      time.Time // when the operator's suspension ends by itself; zero: never
	Reason     string    // why it waits, "" when it does not
	Generation uint64    // the adopted one
	SizeBytes  uint64

	ReadBytes, WrittenBytes uint64
	ALWrites, BitmapWrites  uint64
	UpperPending            int64
	Peers                   []PeerStatus
	Leases                  *LeaseStatus  // nil: reads need none
	Resync                  *ResyncStatus // nil: none runs
	Verify                  *VerifyStatus // nil: none was begun here
}

// PeerStatus is the state towards one peer.
type PeerStatus struct {
	Node                     string
	Slot                     int
	ConnectionState          string // StandAlone, Connecting, Connected
	ReplicationState         string // Off, Established, SyncSource, SyncTarget, PausedSyncS, PausedSyncT, VerifyS, VerifyT
	Role                     string // Primary, Secondary, Unknown
	DiskState                string
	OutOfSyncBytes           uint64
	Pending                  int
	SentBytes, ReceivedBytes uint64 // resync data
	PercentInSync            float64
	Reason                   string
}

// ResyncStatus is the progress of a resync.
type ResyncStatus struct {
	Source, Target        string
	DoneBytes, TotalBytes uint64
	BytesPerSecond        uint64
	PausedBy              []string // nodes; empty: it is not
	MaxRate               uint64   // this node's limit in bytes per second, 0: none
	ETASeconds            int64    // -1: unknown
}

// Status returns a snapshot; it waits for the control loop, at most for as long as the resource runs.
func (r *Resource) Status() Status {
	var st Status
	if err := r.callBy(r.ctx, &r.urgent, func() { st = r.status() }); err != nil {
		return Status{Resource: r.name, Role: "Secondary", DiskState: "Diskless", Reason: err.Error()}
	}
	return st
}

func (r *Resource) status() Status {
	v := r.volume
	st := Status{Resource: r.name, Role: r.role(), DiskState: r.diskState(), Generation: r.adopted.Generation,
		SizeBytes: v.SizeBytes(), Reason: r.reason, Serving: r.serving,
		ReadBytes: v.stats.readBytes.Load(), WrittenBytes: v.stats.writtenBytes.Load(), UpperPending: v.stats.upperPending.Load()}
	if r.local != nil {
		counts := r.local.store.Stats()
		st.ALWrites, st.BitmapWrites = counts.Transactions, counts.PagesWritten
	}
	if r.detached && st.Reason == "" {
		st.Reason = r.failure
	}
	if st.Reason == "" {
		st.Reason = r.notTarget()
	}
	if r.former != nil {
		what, age := r.former.local.watch.oldest()
		if what != "" {
			st.Reason = fmt.Sprintf("%s on the former disk has not returned for %v", what, age.Round(time.Second))
		}
	}
	if r.pull != nil && r.pull.refused != "" && st.Reason == "" {
		st.Reason = "the disk can't be brought up to date: " + r.pull.refused
	}
	if st.Reason == "" {
		st.Reason = r.slow
	}
	if r.suspension != nil {
		st.ByOperator, st.Until = true, r.suspension.until
	}
	if r.verify != nil {
		verify := r.verifyStatus()
		st.Verify = &verify
	}
	v.mu.Lock()
	st.Suspended = v.gate == gateSuspended
	st.Leases = r.leaseStatusLocked()
	v.mu.Unlock()
	if st.Reason == "" && st.Leases != nil && st.Leases.WaitingReads > 0 {
		st.Reason = "reads wait for a lease of " + strings.Join(st.Leases.Missing, ", ")
	}
	for _, replica := range r.learned.Replicas {
		if l := r.links[replica.Node]; l != nil {
			st.Peers = append(st.Peers, r.peerStatus(l, &st))
		}
	}
	return st
}

// peerStatus describes one peer; a resync in progress becomes the resource's.
func (r *Resource) peerStatus(l *link, st *Status) PeerStatus {
	ps := PeerStatus{Node: l.node, Slot: l.slot, ConnectionState: "Connecting", ReplicationState: "Off", Role: "Unknown",
		DiskState: "DUnknown", OutOfSyncBytes: r.outOfSync(l.slot), Reason: l.reason, PercentInSync: 100}
	if st.SizeBytes > 0 {
		ps.PercentInSync = 100 * (1 - float64(ps.OutOfSyncBytes)/float64(st.SizeBytes))
	}
	if l.standAlone {
		ps.ConnectionState = "StandAlone"
	}
	s := l.session
	if s == nil {
		return ps
	}
	ps.ConnectionState, ps.ReplicationState = "Connected", "Established"
	if l.split {
		ps.ConnectionState, ps.ReplicationState = splitBrain, "Off"
	}
	ps.SentBytes, ps.ReceivedBytes = s.sentBytes.Load(), s.receivedBytes.Load()
	ps.Role = s.hello.Role
	switch {
	case r.adopted.Primary == l.node && r.adopted.PrimaryIncarnation == s.hello.Incarnation:
		ps.Role = "Primary"
	case ps.Role == "Primary":
		ps.Role = "Secondary"
	}
	ps.DiskState = s.hello.DiskState
	if r.adopted.inSync(l.node) {
		ps.DiskState = "UpToDate"
	} else if ps.DiskState == "UpToDate" {
		ps.DiskState = "Outdated"
	}
	r.resyncOf(l, s, &ps, st)
	return ps
}

// resyncOf fills in what a running resync changes.
func (r *Resource) resyncOf(l *link, s *session, ps *PeerStatus, st *Status) {
	v := r.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	ps.Pending = s.pending.count
	if verifying := r.verifyingLocked(s); verifying != "" {
		ps.ReplicationState = verifying
	}
	if s.resync.role == resyncNone || !s.resync.running {
		return
	}
	progress := &ResyncStatus{Source: r.cfg.Node, Target: l.node, DoneBytes: s.resync.done, TotalBytes: s.resync.total, ETASeconds: -1}
	running, paused := "SyncSource", "PausedSyncS"
	ps.DiskState = "Inconsistent"
	if s.resync.role == resyncTarget || s.resync.role == resyncPull {
		progress.Source, progress.Target = l.node, r.cfg.Node
		running, paused = "SyncTarget", "PausedSyncT"
		ps.DiskState = "UpToDate"
	}
	progress.MaxRate, progress.PausedBy = v.resyncs.maxRate, s.pausedByLocked()
	if ps.ReplicationState = running; len(progress.PausedBy) > 0 {
		ps.ReplicationState = paused
	}
	if s.observeLocked(); len(progress.PausedBy) == 0 {
		progress.BytesPerSecond = uint64(s.resync.progress.rate)
		progress.ETASeconds = s.resync.progress.secondsLeft(progress.TotalBytes - min(progress.DoneBytes, progress.TotalBytes))
	}
	st.Resync = progress
}

// pausedByLocked is the nodes whose operators have paused the resync.
func (s *session) pausedByLocked() []string {
	var by []string
	if s.volume.resyncs.paused {
		by = append(by, s.resource.cfg.Node)
	}
	if s.resync.peerPaused {
		by = append(by, s.peer)
	}
	return by
}

// Connect ends StandAlone towards a peer, "" for all.
func (r *Resource) Connect(peer string) error {
	return r.setStandAlone(peer, false)
}

// Disconnect ends the session with a peer, "" for all, and keeps it from coming back.
func (r *Resource) Disconnect(peer string) error {
	return r.setStandAlone(peer, true)
}

func (r *Resource) setStandAlone(peer string, alone bool) error {
	found := false
	err := r.call(r.ctx, func() {
		for _, l := range r.links {
			if peer != "" && l.node != peer {
				continue
			}
			found = true
			l.standAlone = alone
			if alone && l.session != nil {
				r.peerLeaves(l.session, "disconnected by the operator")
			}
			select {
			case l.wake <- struct{}{}:
			default:
			}
		}
	})
	if err == nil && !found {
		return fmt.Errorf("%w: %s is no peer of %s", ErrRefused, peer, r.name)
	}
	return err
}
