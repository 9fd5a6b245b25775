package node

import (
	"context"
	"slices"
	"strings"
	"time"

	"duet/internal/control"
	"duet/quorum"
	"duet/replication"
)

// Version implements control.Node.
func (n *Node) Version(context.Context) (*control.VersionInfo, error) {
	info := n.version
	info.Protocol = replication.ProtocolVersion
	return &info, nil
}

// Health implements control.Node.
func (n *Node) Health(context.Context) control.Health {
	status := n.quorum.Status()
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case status.StoreError != "":
		return control.Health{Reason: "the store of the quorum failed: " + status.StoreError}
	case status.Leader == "":
		return control.Health{Reason: alone(&status)}
	case !n.ready:
		return control.Health{Reason: "the node is still learning what the cluster has agreed on"}
	}
	for _, h := range n.resources {
		if why := h.whyNoDisk(); why != "" {
			return control.Health{Reason: h.name + ": " + why}
		}
	}
	return control.Health{Ready: true}
}

// Status implements control.Node.
func (n *Node) Status(ctx context.Context) (*control.Status, error) {
	q := n.quorumStatus(ctx)
	s := &control.Status{Node: n.config.Name, Kind: control.NodeKind(n.config.Kind), Cluster: n.config.Cluster,
		Version: n.version.Version, Quorum: q}
	state := n.quorum.State()
	n.mu.Lock()
	all := make(map[string]*held, len(n.resources))
	for name, h := range n.resources {
		all[name] = h
	}
	n.mu.Unlock()
	for _, name := range sortedNames(all) {
		if r := state.Resources[name]; r != nil {
			s.Resources = append(s.Resources, n.resourceStatus(r, all[name], q.HasQuorum))
		}
	}
	return s, nil
}

// quorumStatus is the voters as this node sees them. Only the leader hears all of them, so the others ask it.
func (n *Node) quorumStatus(ctx context.Context) control.QuorumStatus {
	status := n.quorum.Status()
	q := control.QuorumStatus{Leader: status.Leader, Term: status.Term}
	q.HasQuorum = n.hasQuorum(&status)
	view := n.leaderView(ctx, &status)
	for _, v := range status.Voters {
		reachable := v.Reach == quorum.ReachYes
		if v.Reach == quorum.ReachUnknown {
			reachable = slices.Contains(view, v.Node)
		}
		q.Voters = append(q.Voters, control.VoterStatus{Name: v.Node, Address: v.Address, Reachable: reachable})
	}
	return q
}

// hasQuorum tells whether this node is in contact with a majority: it leads, or hears the leader.
func (n *Node) hasQuorum(status *quorum.Status) bool {
	return status.Leader == n.config.Name || status.Leader != "" && status.LastContact >= 0 && status.LastContact < contactLimit
}

const (
	contactLimit = 2 * time.Second        // a leader that is silent for so long is not in contact
	viewAge      = time.Second            // for so long the leader's view is good
	viewLimit    = 500 * time.Millisecond // to ask for it
)

// leaseStatus is nil where reads need no lease.
func leaseStatus(st *replication.LeaseStatus) *control.LeaseStatus {
	if st == nil {
		return nil
	}
	return &control.LeaseStatus{Mode: st.Mode.String(), Valid: len(st.Missing) == 0, MarginMS: st.Margin.Milliseconds(), WaitingOn: append([]string{}, st.Missing...)}
}

// leaderView is which voters the leader reaches; nil on the leader, and when it can't be asked.
func (n *Node) leaderView(ctx context.Context, status *quorum.Status) []string {
	if status.Leader == "" || status.Leader == status.Node || len(status.Voters) < 3 {
		return nil
	}
	n.mu.Lock()
	if n.view.leader == status.Leader && time.Since(n.view.at) < viewAge {
		defer n.mu.Unlock()
		return n.view.reached
	}
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, viewLimit)
	defer cancel()
	client := n.peer(status.Leader)
	defer client.Close()
	view := leaderView{leader: status.Leader, at: time.Now()}
	if answer, err := client.Status(ctx); err == nil {
		for _, v := range answer.Quorum.Voters {
			if v.Reachable {
				view.reached = append(view.reached, v.Name)
			}
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.view = view
	return view.reached
}

// leaderView is an answer of the leader about the voters.
type leaderView struct {
	leader  string
	at      time.Time
	reached []string
}

const kib = 1024

// resourceStatus joins what is committed with what this node sees.
func (n *Node) resourceStatus(r *quorum.Resource, h *held, hasQuorum bool) control.ResourceStatus {
	out := control.ResourceStatus{Name: r.Name, NodeID: -1, Role: control.RoleSecondary, WriteOrdering: "flush", SuspendedBy: control.SuspendedByNobody,
		Generation: r.Generation, InSync: r.InSync, Primary: r.Primary, Reason: h.whyNoDisk(), Split: splitReplicas(r)}
	if replica, ok := r.Replica(n.config.Name); ok {
		out.NodeID = replica.Slot
	}
	if t := n.takeovers(); t != nil {
		out.Takeover = t.Waiting(r.Name)
	}
	out.MayPromote = mayBecomePrimary(r, promotionFacts{node: n.config.Name, quorum: hasQuorum, gone: n.primaryGone(r), unusable: whyNotPrimary(h.resource)})
	disk := control.DeviceStatus{DiskState: control.DiskDiskless, Quorum: hasQuorum, SizeKiB: r.SizeBytes / kib}
	if h.resource == nil {
		out.Devices = []control.DeviceStatus{disk}
		return out
	}
	st := h.resource.Status()
	out.Role, out.Suspended = control.Role(st.Role), st.Suspended
	out.SuspendedBy, out.SuspendedUntil = suspendedIO(&st)
	disk.SizeKiB = st.SizeBytes / kib // the record may be ahead of what is served
	if st.Reason != "" {
		out.Reason = st.Reason
	}
	disk.DiskState, disk.ReadKiB, disk.WrittenKiB = control.DiskState(st.DiskState), st.ReadBytes/kib, st.WrittenBytes/kib
	disk.ALWrites, disk.BitmapWrites, disk.UpperPending = st.ALWrites, st.BitmapWrites, uint64(max(st.UpperPending, 0))
	out.Devices = []control.DeviceStatus{disk}
	out.Lease = leaseStatus(st.Leases)
	out.Resync = resyncStatus(r.Name, st.Resync)
	if st.Verify != nil {
		out.Verify = verifyStatus(r.Name, st.Verify)
		for i := range out.Verify.Peers {
			out.Verify.Peers[i].Ranges = []control.ByteRange{} // `duet verify` names them; here they would be too many
		}
	}
	for i := range st.Peers {
		out.Connections = append(out.Connections, n.connectionStatus(r.Name, &st.Peers[i], st.Resync))
	}
	return out
}

func (n *Node) connectionStatus(resource string, p *replication.PeerStatus, running *replication.ResyncStatus) control.ConnectionStatus {
	c := control.ConnectionStatus{PeerNodeID: p.Slot, Name: p.Node, ConnectionState: control.ConnectionState(p.ConnectionState),
		PeerRole: control.Role(p.Role), TLS: !n.config.Insecure, Reason: p.Reason}
	d := control.PeerDeviceStatus{ReplicationState: control.ReplicationState(p.ReplicationState), PeerDiskState: control.DiskState(p.DiskState),
		ResyncSuspended: "no", ReceivedKiB: p.ReceivedBytes / kib, SentKiB: p.SentBytes / kib, OutOfSyncKiB: p.OutOfSyncBytes / kib,
		Pending: uint64(max(p.Pending, 0)), PercentInSync: p.PercentInSync}
	if running != nil && (running.Source == p.Node || running.Target == p.Node) {
		d.Resync, d.HasSyncDetails = resyncStatus(resource, running), true
		d.ResyncSuspended = suspendedBy(running.PausedBy, p.Node)
	}
	c.PeerDevices = []control.PeerDeviceStatus{d}
	return c
}

// suspendedBy is who paused a resync, in DRBD's words: the user of this node, or the peer.
func suspendedBy(nodes []string, peer string) string {
	var by []string
	for _, node := range nodes {
		word := "user"
		if node == peer {
			word = "peer"
		}
		by = append(by, word)
	}
	if len(by) == 0 {
		return "no"
	}
	return strings.Join(by, ",")
}

func resyncStatus(resource string, r *replication.ResyncStatus) *control.ResyncStatus {
	if r == nil {
		return nil
	}
	out := &control.ResyncStatus{Resource: resource, State: control.ResyncRunning, Source: r.Source, Target: r.Target,
		DoneKiB: r.DoneBytes / kib, TotalKiB: r.TotalBytes / kib, RateKiBs: r.BytesPerSecond / kib, PausedBy: []string{},
		MaxRateKiBs: r.MaxRate / kib}
	if len(r.PausedBy) > 0 {
		out.State, out.PausedBy = control.ResyncPaused, r.PausedBy
	}
	if r.ETASeconds >= 0 {
		out.ETA = &r.ETASeconds
	}
	return out
}

// ResyncStatus implements control.Node.
func (n *Node) ResyncStatus(_ context.Context, resource string) (*control.ResyncStatus, error) {
	replica, err := n.replica(resource)
	if err != nil {
		return nil, err
	}
	st := replica.Status()
	if st.Resync != nil {
		return resyncStatus(resource, st.Resync), nil
	}
	return &control.ResyncStatus{Resource: resource, State: control.ResyncNone, PausedBy: []string{}}, nil
}
