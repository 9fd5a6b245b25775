package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"duet/internal/control"
	"duet/quorum"
	"duet/replication"
)

// waitInterval is how often a condition is looked at that nothing announces.
const waitInterval = 20 * time.Millisecond

// waitFor waits until done says so, or ctx ends.
func (n *Node) waitFor(ctx context.Context, what string, done func() bool) error {
	ticker := time.NewTicker(waitInterval)
	defer ticker.Stop()
	for {
		changed := n.quorum.Changed()
		if done() {
			return nil
		}
		select {
		case <-changed:
		case <-ticker.C:
		case <-ctx.Done():
			return control.Errorf(control.CodeTimeout, "waited too long for %s", what)
		case <-n.ctx.Done():
			return control.Errorf(control.CodeRefused, "%s is stopping", n.config.Name)
		}
	}
}

// held is what this node has of a resource, or nil.
func (n *Node) held(resource string) *held {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.resources[resource]
}

// replica finds the resource that a command is about. It has to be open here.
func (n *Node) replica(resource string) (*replication.Resource, error) {
	h := n.held(resource)
	switch {
	case h == nil && n.quorum.State().Resources[resource] == nil:
		return nil, n.unknownResource(resource)
	case h == nil:
		return nil, control.Errorf(control.CodeRefused, "%s has no replica of %s", n.config.Name, resource)
	case h.resource == nil:
		return nil, control.Errorf(control.CodeRefused, "%s can't be used on %s: %s", resource, n.config.Name, h.whyNoDisk())
	}
	return h.resource, nil
}

// Primary implements control.Node.
func (n *Node) Primary(ctx context.Context, resource string, r *control.PrimaryRequest) (*control.RoleChange, error) {
	current, err := n.newest(ctx, resource)
	if err != nil {
		return nil, err
	}
	if _, ok := current.Replica(n.config.Name); ok {
		if err := n.waitFor(ctx, resource+" to be opened here", func() bool { return n.held(resource) != nil }); err != nil {
			return nil, err
		}
	}
	if r.Force {
		return n.forcePrimary(ctx, current, r)
	}
	replica, err := n.replica(resource)
	if err != nil {
		return nil, err
	}
	if err := n.mayPromote(ctx, current); err != nil {
		return nil, err
	}
	if err := replica.Promote(ctx); err != nil {
		failure := roleError("make "+n.config.Name+" Primary of "+resource, err)
		if p, ok := current.Replica(n.config.Name); ok && !current.IsInSync(n.config.Name) && p.Fork.At == 0 && errors.Is(err, replication.ErrRefused) {
			return nil, control.AsError(failure).WithHint("bring back %s; only if that can't be: duet primary %s --force", strings.Join(current.InSync, " or "), resource)
		}
		return nil, failure
	}
	return &control.RoleChange{Role: control.RolePrimary, Generation: replica.Status().Generation}, nil
}

// mayPromote refuses to take the role from a Primary that is alive: that is what `duet secondary` there is for. The
// record would allow it, and cut the other's clients off. Alive is who answers, and whom no majority of the voters misses.
func (n *Node) mayPromote(ctx context.Context, r *quorum.Resource) error {
	if r.Primary == "" || r.Primary == n.config.Name || n.primaryGone(r) {
		return nil
	}
	if n.answers(ctx, r.Primary) == nil {
		return control.Errorf(control.CodeRefused, "%s is Primary of %s and answers", r.Primary, r.Name).
			WithHint("run `duet secondary %s` on %s first", r.Name, r.Primary)
	}
	ctx, cancel := context.WithTimeout(ctx, suspicionLimit)
	defer cancel()
	if err := n.waitFor(ctx, "the voters", func() bool { return n.primaryGone(r) }); err == nil {
		return nil
	}
	live := n.quorum.Liveness()
	return control.Errorf(control.CodeRefused, "%s is Primary of %s, and only %d of %d voters miss it", r.Primary, r.Name,
		live.Nodes[r.Primary].Votes, live.Voters).WithHint("run `duet secondary %s` on %s first", r.Name, r.Primary)
}

// suspicionLimit is how long a command waits for a majority to miss a Primary that does not answer.
const suspicionLimit = 2 * time.Second

// primaryGone reports whether the Primary's process has ended, or a majority of the voters misses it.
func (n *Node) primaryGone(r *quorum.Resource) bool {
	live := n.quorum.Liveness()
	held := live.Nodes[r.Primary]
	return n.quorum.State().Nodes[r.Primary].Incarnation != r.PrimaryIncarnation || held.Exited >= r.PrimaryIncarnation ||
		held.Votes > live.Voters/2
}

// Secondary implements control.Node.
func (n *Node) Secondary(ctx context.Context, resource string) (*control.RoleChange, error) {
	replica, err := n.replica(resource)
	if err != nil {
		return nil, err
	}
	if err := replica.Demote(ctx); err != nil {
		return nil, roleError("make "+n.config.Name+" Secondary of "+resource, err)
	}
	return &control.RoleChange{Role: control.RoleSecondary, Generation: replica.Status().Generation}, nil
}

func roleError(what string, err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return control.Errorf(control.CodeTimeout, "%s: %v", what, err)
	case errors.Is(err, replication.ErrRefused), errors.Is(err, replication.ErrRejected), errors.Is(err, replication.ErrNotPrimary):
		return control.Errorf(control.CodeRefused, "%s: %v", what, err)
	case errors.Is(err, quorum.ErrNoLeader), errors.Is(err, replication.ErrNoMajority):
		return control.Errorf(control.CodeUnreachable, "%s: no majority of the voters can be reached", what)
	}
	return control.Errorf(control.CodeInternal, "%s: %v", what, err)
}

// Connect implements control.Node.
func (n *Node) Connect(_ context.Context, resource string, r *control.PeerRequest) error {
	replica, err := n.replica(resource)
	if err != nil {
		return err
	}
	return peerError(resource, replica.Connect(r.Peer))
}

// Disconnect implements control.Node.
func (n *Node) Disconnect(_ context.Context, resource string, r *control.PeerRequest) error {
	replica, err := n.replica(resource)
	if err != nil {
		return err
	}
	return peerError(resource, replica.Disconnect(r.Peer))
}

// ChangeResync implements control.Node.
func (n *Node) ChangeResync(_ context.Context, resource string, r *control.ResyncRequest) error {
	replica, err := n.replica(resource)
	if err != nil {
		return err
	}
	change := replication.ResyncChange{Paused: r.Paused, MaxRate: r.MaxRate}
	if r.Compare != nil {
		change.CompareAlways = new(*r.Compare == control.CompareAlways)
	}
	return replica.ChangeResync(change)
}

func peerError(resource string, err error) error {
	if errors.Is(err, replication.ErrRefused) {
		return control.Errorf(control.CodeNotFound, "%v", err).WithHint("see `duet resource show %s`", resource)
	}
	return err
}

// ResourceList implements control.Node.
func (n *Node) ResourceList(context.Context) ([]control.ResourceRecord, error) {
	state := n.quorum.State()
	records := []control.ResourceRecord{}
	for _, name := range sortedNames(state.Resources) {
		records = append(records, *record(state.Resources[name]))
	}
	return records, nil
}

// ResourceShow implements control.Node. It answers from this node's copy of the record, so that it works without a
// majority.
func (n *Node) ResourceShow(_ context.Context, resource string) (*control.ResourceRecord, error) {
	r := n.quorum.State().Resources[resource]
	if r == nil {
		return nil, n.unknownResource(resource)
	}
	return record(r), nil
}

// record is the committed record as the operator sees it.
func record(r *quorum.Resource) *control.ResourceRecord {
	out := &control.ResourceRecord{
		Name: r.Name, ID: r.ID.String(), SizeBytes: r.SizeBytes, Generation: r.Generation, Primary: r.Primary, Clean: r.Clean,
		Hold: r.Hold, InSync: r.InSync, Promotion: control.Promotion(r.Promotion), Preferred: r.Preferred, Ack: control.AckDevice,
	}
	if r.AckDurable {
		out.Ack = control.AckDurable
	}
	out.OnIOError = control.OnIOError(cmp.Or(r.OnIOError, string(control.OnIOErrorDetach)))
	switch out.DiskTimeout = control.Duration(replication.DefaultTiming().DiskTimeout); {
	case r.DiskTimeoutMS < 0:
		out.DiskTimeout = -1
	case r.DiskTimeoutMS > 0:
		out.DiskTimeout = control.Duration(time.Duration(r.DiskTimeoutMS) * time.Millisecond)
	}
	for _, replica := range r.Replicas {
		out.Replicas = append(out.Replicas, control.ReplicaRecord{Node: replica.Node, Slot: replica.Slot, Path: replica.Path,
			Metadata: replica.Metadata})
	}
	for _, c := range r.History {
		out.History = append(out.History, control.GenerationNote{Generation: c.Generation, Kind: c.Kind, Primary: c.Primary,
			InSync: c.InSync, Forced: c.Forced, Reason: c.Reason})
	}
	return out
}

// promotePreferred makes this node Primary of a resource that was created with it as the preferred one. It ends with
// the node, or when it is Primary, or when somebody else is.
func (n *Node) promotePreferred(resource string, replica *replication.Resource) {
	ctx, cancel := context.WithTimeout(n.ctx, askLimit)
	defer cancel()
	if err := replica.Promote(ctx); err != nil {
		n.log.Warn("first promotion", "resource", resource, "error", err)
		n.emit(replication.Event{Time: time.Now(), Resource: resource, Kind: "role", To: string(control.RoleSecondary),
			Reason: fmt.Sprintf("could not become Primary after the creation: %v", err)})
	}
}
