package node

import (
	"context"

	"duet/internal/control"
	"duet/replication"
)

// Verify implements control.Node.
func (n *Node) Verify(ctx context.Context, resource string, r *control.VerifyRequest) (*control.VerifyStatus, error) {
	replica, err := n.replica(resource)
	if err != nil {
		return nil, err
	}
	st, err := replica.Verify(ctx, replication.VerifyOptions{Repair: r.Repair, BytesPerSecond: r.BytesPerSecond})
	if err != nil {
		return nil, roleError("verify "+resource, err)
	}
	return verifyStatus(resource, &st), nil
}

// VerifyStatus implements control.Node.
func (n *Node) VerifyStatus(_ context.Context, resource string) (*control.VerifyStatus, error) {
	replica, err := n.replica(resource)
	if err != nil {
		return nil, err
	}
	st := replica.VerifyStatus()
	return verifyStatus(resource, &st), nil
}

// VerifyCancel implements control.Node.
func (n *Node) VerifyCancel(ctx context.Context, resource string, r *control.VerifyCancelRequest) error {
	replica, err := n.replica(resource)
	if err != nil {
		return err
	}
	if err := replica.CancelVerify(ctx, r.Run); err != nil {
		return roleError("cancel the verify of "+resource, err)
	}
	return nil
}

// verifyStatus is the state of a verify as the operator sees it.
func verifyStatus(resource string, st *replication.VerifyStatus) *control.VerifyStatus {
	out := &control.VerifyStatus{Resource: resource, Run: st.Run, State: control.VerifyState(st.State), Reason: st.Reason, Repair: st.Repair,
		DoneKiB: st.DoneBytes / kib, TotalKiB: st.TotalBytes / kib, RateKiBs: st.BytesPerSecond / kib, Began: st.Began,
		Peers: make([]control.VerifyPeer, 0, len(st.Peers))}
	if st.Run == 0 {
		out.State = control.VerifyNone
	}
	if st.ETASeconds >= 0 && st.Run > 0 {
		out.ETA = &st.ETASeconds
	}
	if !st.Ended.IsZero() && st.State != replication.VerifyRepairing {
		out.Ended = &st.Ended
	}
	for _, p := range st.Peers {
		peer := control.VerifyPeer{Name: p.Node, DifferentKiB: p.DifferentBytes / kib, MoreRanges: p.MoreRanges, Exact: p.Exact,
			Repaired: p.Repaired, Ranges: make([]control.ByteRange, 0, len(p.Ranges))}
		for _, r := range p.Ranges {
			peer.Ranges = append(peer.Ranges, control.ByteRange(r))
		}
		out.Peers = append(out.Peers, peer)
	}
	return out
}
