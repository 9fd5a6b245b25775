package node

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"duet/internal/control"
	"duet/quorum"
	"duet/replication"
)

// forcePrimary makes this node Primary by the operator's word.
func (n *Node) forcePrimary(ctx context.Context, current *quorum.Resource, r *control.PrimaryRequest) (*control.RoleChange, error) {
	replica, err := n.replica(current.Name)
	if err != nil {
		return nil, err
	}
	if r.Generation == 0 {
		return nil, control.Errorf(control.CodeUsage, "--force needs the generation that the operator has looked at")
	}
	if refusal, hint := n.refuseForce(ctx, current); refusal != "" {
		return nil, control.Errorf(control.CodeRefused, "%s", refusal).WithHint("%s", hint)
	}
	err = replica.ForcePromote(ctx, replication.ForceOptions{Generation: r.Generation, AcceptInconsistent: r.AcceptInconsistent})
	if errors.Is(err, replication.ErrMixture) {
		return nil, control.Errorf(control.CodeRefused, "make %s Primary of %s: %v", n.config.Name, current.Name, err).
			WithHint("bring back %s, which has every acknowledged write; only where that can't be: --force --accept-inconsistent", strings.Join(current.InSync, " or "))
	}
	if err != nil {
		return nil, roleError("make "+n.config.Name+" Primary of "+current.Name, err)
	}
	return &control.RoleChange{Role: control.RolePrimary, Generation: replica.Status().Generation}, nil
}

// refuseForce says why a forced promotion makes no sense, and what does. The role of a Primary that anybody reaches is never
// taken: it may be acknowledging writes at this moment.
func (n *Node) refuseForce(ctx context.Context, r *quorum.Resource) (refusal, hint string) {
	state := n.quorum.State()
	switch {
	case r.Primary == n.config.Name && r.PrimaryIncarnation == n.incarnation:
		return n.config.Name + " is Primary of " + r.Name + " already", "duet status " + r.Name
	case n.primaryLives(ctx, r):
		return r.Primary + " is Primary of " + r.Name + " and can be reached; a live Primary's role is not taken by force",
			"run `duet secondary " + r.Name + "` on " + r.Primary + " first"
	case state.MayPromote(r, n.config.Name, n.incarnation) == nil:
		return n.config.Name + " can become Primary of " + r.Name + " without force", "duet primary " + r.Name
	}
	if p, ok := r.Replica(n.config.Name); ok && p.Fork.At != 0 {
		return n.config.Name + " is a side of a split of " + r.Name + ": it has to be decided which one is kept", "duet split show " + r.Name
	}
	return "", ""
}

// primaryLives reports whether the recorded Primary is running: it answers this node, or the leader hears of it.
func (n *Node) primaryLives(ctx context.Context, r *quorum.Resource) bool {
	if r.Primary == "" || r.Primary == n.config.Name || !n.quorum.State().Serves(r) {
		return false
	}
	if n.answers(ctx, r.Primary) == nil {
		return true
	}
	q := n.quorumStatus(ctx)
	for _, v := range q.Voters {
		if v.Name == r.Primary {
			return q.HasQuorum && (v.Reachable || q.Leader == v.Name)
		}
	}
	return false
}

// ForceReport implements control.Node.
func (n *Node) ForceReport(ctx context.Context, resource string) (*control.ForceReport, error) {
	current, err := n.newest(ctx, resource)
	if err != nil {
		return nil, err
	}
	replica, err := n.replica(resource)
	if err != nil {
		return nil, err
	}
	if err := n.waitFor(ctx, "the newest record", func() bool {
		r := n.quorum.State().Resources[resource]
		return r != nil && r.Generation >= current.Generation
	}); err != nil {
		return nil, err
	}
	current = n.quorum.State().Resources[resource] // with all of its history
	st := replica.Status()
	mine, _ := current.Replica(n.config.Name)
	report := &control.ForceReport{Resource: resource, Node: n.config.Name, Generation: current.Generation, InSync: current.InSync,
		Primary: current.Primary, DiskState: control.DiskState(st.DiskState), LeftAt: mine.LeftAt, LeftTime: timeOf(current, mine.LeftAt)}
	report.Refusal, report.Hint = n.refuseForce(ctx, current)
	report.Peers = n.forcePeers(ctx, current, &st)
	return report, nil
}

// timeOf is when a generation was proposed, by the clock of who did; nil if history does not tell.
func timeOf(r *quorum.Resource, generation uint64) *time.Time {
	for _, c := range r.History {
		if c.Generation == generation && c.Time != 0 {
			return new(time.Unix(c.Time, 0))
		}
	}
	return nil
}

// forcePeers asks the other replicas, all at once, what they know to differ.
func (n *Node) forcePeers(ctx context.Context, r *quorum.Resource, st *replication.Status) []control.ForcePeer {
	peers := make([]control.ForcePeer, len(st.Peers))
	var asked sync.WaitGroup
	for i, p := range st.Peers {
		peers[i] = control.ForcePeer{Name: p.Node, InSync: r.IsInSync(p.Node), HereKiB: p.OutOfSyncBytes / kib}
		asked.Go(func() { peers[i].ThereKiB, peers[i].Answers = n.outOfSyncAt(ctx, p.Node, r.Name) })
	}
	asked.Wait()
	return peers
}

// outOfSyncAt is what a peer's bitmap says that this node lacks.
func (n *Node) outOfSyncAt(ctx context.Context, peer, resource string) (outOfSyncKiB *uint64, answers bool) {
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	client := n.peer(peer)
	defer client.Close()
	status, err := client.Status(ctx)
	if err != nil {
		return nil, false
	}
	for i := range status.Resources {
		for _, c := range status.Resources[i].Connections {
			if status.Resources[i].Name == resource && c.Name == n.config.Name && len(c.PeerDevices) > 0 {
				return &c.PeerDevices[0].OutOfSyncKiB, true
			}
		}
	}
	return nil, true
}

// splitReplicas is what the status says of a split.
func splitReplicas(r *quorum.Resource) []control.SplitReplica {
	var out []control.SplitReplica
	for _, p := range r.Forks() {
		out = append(out, control.SplitReplica{Name: p.Node, Generation: p.Fork.At, GivenUp: p.Discard.At != 0})
	}
	return out
}
