package replication

import "time"

// VerifyState says how far a verification is.
type VerifyState string

// The states of a verification.
const (
	VerifyRunning   VerifyState = "running"
	VerifyRepairing VerifyState = "repairing" // compared; what differs is copied again
	VerifyDone      VerifyState = "done"
	VerifyCancelled VerifyState = "cancelled"
	VerifyFailed    VerifyState = "failed" // it ended early
)

// ByteRange is a part of the device.
type ByteRange struct {
	Offset uint64
	Length uint64
}

// VerifyStatus is the progress or the result of a verification.
type VerifyStatus struct {
	Run                   uint64 // its number since the start of the process; 0: there was none
	State                 VerifyState
	Reason                string // why it ended early
	Repair                bool
	DoneBytes, TotalBytes uint64
	BytesPerSecond        uint64
	ETASeconds            int64 // -1: unknown
	Began, Ended          time.Time
	Peers                 []VerifyPeerStatus
}

// VerifyPeerStatus is what the comparison with one peer has shown.
type VerifyPeerStatus struct {
	Node           string
	DifferentBytes uint64
	Ranges         []ByteRange // what differs, ascending; only the first of many
	MoreRanges     int         // those that are not listed
	Exact          bool        // false: so many that neighbours were joined
	Repaired       bool
}

// VerifyStatus returns the state of the newest verification that was begun on this node since its start.
func (r *Resource) VerifyStatus() VerifyStatus {
	var st VerifyStatus
	if err := r.call(r.ctx, func() { st = r.verifyStatus() }); err != nil {
		return VerifyStatus{}
	}
	return st
}

func (r *Resource) verifyStatus() VerifyStatus {
	y := r.verify
	if y == nil {
		return VerifyStatus{}
	}
	r.volume.mu.Lock()
	defer r.volume.mu.Unlock()
	st := VerifyStatus{Run: y.run, State: y.state, Reason: y.reason, Repair: y.options.Repair, DoneBytes: y.compared,
		TotalBytes: r.volume.sizeBytes.Load(), ETASeconds: -1, Began: y.began, Ended: y.ended}
	for _, p := range y.peers {
		ps := VerifyPeerStatus{Node: p.session.peer, DifferentBytes: p.different.added, Exact: p.different.grainBytes == 0,
			Repaired: p.repaired}
		ps.Ranges, ps.MoreRanges = p.different.ranges(r.volume.sizeBytes.Load(), maxVerifyRanges)
		st.Peers = append(st.Peers, ps)
	}
	until := y.ended
	if y.state == VerifyRunning {
		until = time.Now()
	}
	if elapsed := until.Sub(y.began).Seconds(); elapsed > 0 {
		st.BytesPerSecond = uint64(float64(st.DoneBytes) / elapsed)
	}
	if y.state == VerifyRunning && st.BytesPerSecond > 0 {
		st.ETASeconds = int64((st.TotalBytes - st.DoneBytes) / st.BytesPerSecond)
	}
	return st
}

// verifyingLocked is the replication state that a verification gives a session, "" for none.
func (r *Resource) verifyingLocked(s *session) string {
	if s.verify.running {
		return "VerifyT"
	}
	if y := r.verify; y != nil && y.state == VerifyRunning {
		for _, p := range y.peers {
			if p.session == s {
				return "VerifyS"
			}
		}
	}
	return ""
}
