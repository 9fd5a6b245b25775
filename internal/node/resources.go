package node

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"duet/internal/control"
	"duet/internal/device"
	"duet/internal/mux"
	"duet/quorum"
	"duet/replication"
)

// held is a resource with a replica on this node.
type held struct {
	name     string
	resource *replication.Resource // nil: it could not be opened
	failure  string                // why it has no disk here

	mu      sync.Mutex
	revoked chan struct{}
	vacated bool                   // before-demote has been run for the role that this node has
	away    map[string]*time.Timer // peers that were lost a moment ago
	record  *quorum.Resource       // the newest that was seen
}

// newest is the newest record that was seen of the resource; later is one that is looked at now, nil for none.
func (h *held) newest(later *quorum.Resource) *quorum.Resource {
	h.mu.Lock()
	defer h.mu.Unlock()
	if later != nil && later.ID == h.record.ID && later.Generation > h.record.Generation {
		h.record = later
	}
	return h.record
}

// disk is the path of the replica's disk.
func (h *held) disk(node string) string {
	replica, _ := h.newest(nil).Replica(node)
	return replica.Path
}

// whyNoDisk is why there is none here, as of when it was opened.
func (h *held) whyNoDisk() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failure
}

// revocation is closed when clients must be cut off.
func (h *held) revocation() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.revoked == nil {
		h.revoked = make(chan struct{})
	}
	return h.revoked
}

func (h *held) revoke() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.revoked != nil {
		close(h.revoked)
		h.revoked = nil
	}
}

// watchLoop keeps the resources in step with the record: a change of it wakes the loop, the end of the node ends it.
func (n *Node) watchLoop() {
	for {
		changed := n.quorum.Changed()
		n.syncResources()
		select {
		case <-changed:
		case <-n.ctx.Done():
			return
		}
	}
}

// syncResources opens what is new, tells the others what is committed, and closes what was deleted or removed from this node.
func (n *Node) syncResources() {
	state := n.quorum.State()
	n.closeDeleted(state)
	for name, record := range state.Resources {
		replica, ok := record.Replica(n.config.Name)
		if !ok {
			continue
		}
		n.mu.Lock()
		h := n.resources[name]
		n.mu.Unlock()
		if h == nil {
			h = n.openResource(record, replica)
			n.mu.Lock()
			n.resources[name] = h
			n.mu.Unlock()
		}
		h.newest(record)
		if h.resource != nil {
			h.resource.Learn(Configuration(record))
		}
	}
}

func (n *Node) closeDeleted(state *quorum.State) {
	n.mu.Lock()
	var gone []*held
	for name, h := range n.resources {
		if !n.sameReplica(h.newest(nil), state.Resources[name]) {
			gone = append(gone, h)
		}
	}
	n.mu.Unlock()
	for _, h := range gone {
		n.closeResource(h)
		if err := n.forgetMetadata(h.newest(nil)); err != nil {
			n.log.Error("forget the metadata", "resource", h.name, "error", err)
		}
		n.mu.Lock()
		delete(n.resources, h.name)
		n.mu.Unlock()
		n.log.Info("resource deleted, or its replica here removed", "resource", h.name)
		n.emit(replication.Event{Time: time.Now(), Resource: h.name, Kind: "disk", To: "Diskless", Reason: "the resource was deleted, or its replica here removed"})
	}
}

// sameReplica reports whether this node's replica in the record is the one that it holds.
func (n *Node) sameReplica(held, now *quorum.Resource) bool {
	if now == nil || now.ID != held.ID {
		return false
	}
	mine, ok := now.Replica(n.config.Name)
	former, _ := held.Replica(n.config.Name)
	return ok && mine.AddedAt == former.AddedAt
}

func (n *Node) closeResource(h *held) {
	if h.resource == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	if err := h.resource.Close(ctx); err != nil {
		n.log.Error("close resource", "resource", h.name, "error", err)
	}
	h.revoke()
}

// openResource attaches the replica. One whose disk can't be used stays listed, with the reason, and without a disk.
func (n *Node) openResource(record *quorum.Resource, replica quorum.Replica) *held {
	h := &held{name: record.Name, record: record}
	timing := replication.DefaultTiming()
	if n.config.PeerTimeout > 0 {
		timing.PeerTimeout = n.config.PeerTimeout
		timing.AckTimeout = max(timing.AckTimeout, n.config.PeerTimeout)
	}
	if n.config.PingInterval > 0 {
		timing.PingInterval = n.config.PingInterval
	}
	resource, err := replication.Open(replication.Config{
		ClusterID: n.config.Cluster, Node: n.config.Name, Incarnation: n.incarnation, BootID: n.bootID,
		Arbiter: NewArbiter(n.quorum), Timing: timing, Logger: n.log,
		Dial:   func(ctx context.Context, node string) (net.Conn, error) { return n.dial(ctx, node, mux.ChannelPeer) },
		Revoke: func(string) { h.revoke() }, DiskFailed: func(f replication.DiskFailure) { n.diskFailed(h.disk(n.config.Name), f) },
		Emit: n.emit, OpenUndo: n.openUndo, Leases: replication.LeaseConfig{Mode: n.reads}, Role: n.roleHooks(h),
	}, Configuration(record))
	if err != nil {
		h.failure = err.Error()
		n.log.Error("open resource", "resource", record.Name, "error", err)
		return h
	}
	h.resource = resource
	fresh, err := n.attach(resource, record, replica)
	if err != nil {
		h.failure = err.Error()
		n.log.Error("attach", "resource", record.Name, "error", err)
		n.emit(replication.Event{Resource: record.Name, Kind: "disk", To: "Diskless", Reason: h.failure})
	}
	resource.Start()
	if fresh && record.Generation == 1 && record.Preferred == n.config.Name {
		n.loops.Go(func() { n.promotePreferred(record.Name, resource) })
	}
	return h
}

func (n *Node) emit(e replication.Event) {
	n.tellHandlers(e)
	n.journal.add(control.Event{Time: e.Time, Resource: e.Resource, Peer: e.Peer, Kind: e.Kind, Old: e.From, New: e.To,
		Generation: e.Generation, Message: e.Reason})
}

// attach opens disk and metadata, or takes over what was prepared for the resource's creation; then it is fresh.
func (n *Node) attach(resource *replication.Resource, record *quorum.Resource, replica quorum.Replica) (fresh bool, err error) {
	n.mu.Lock()
	ready := n.prepared[record.ID.String()]
	delete(n.prepared, record.ID.String())
	n.mu.Unlock()
	if ready != nil {
		ready.expiry.Stop()
		return true, ready.handOver(resource)
	}
	disk, err := device.Open(replica.Path)
	if err != nil {
		return false, err
	}
	meta, err := openMetadata(disk, replica.Metadata, record.SizeBytes)
	if err != nil {
		return false, errors.Join(err, disk.Close())
	}
	return false, (&prepared{disk: disk, meta: meta}).handOver(resource)
}

// openMetadata opens a replica's metadata where the record says it is.
func openMetadata(disk *device.Device, where string, sizeBytes uint64) (*device.Region, error) {
	if where == control.MetadataInternal {
		return disk.Section(int64(sizeBytes), replication.MetadataBytes(sizeBytes, 0))
	}
	return device.OpenRegionFile(where)
}

// stopResources leaves all resources in good order, at the same time.
func (n *Node) stopResources() {
	var done sync.WaitGroup
	for _, h := range n.allHeld() {
		done.Go(func() { n.closeResource(h) })
	}
	done.Wait()
}

// acceptPeers hands each connection to the resource that it names; the end of the port ends it.
func (n *Node) acceptPeers(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				n.log.Error("accept peers", "error", err)
			}
			return
		}
		if peer, ok := conn.(*mux.Conn); ok {
			if err := peer.TakeOut(); err != nil {
				n.log.Error("accept a peer", "error", errors.Join(err, conn.Close()))
				continue
			}
		}
		n.loops.Go(func() { n.greetPeer(conn) })
	}
}

func (n *Node) greetPeer(conn net.Conn) {
	hello, err := replication.ReadHello(n.ctx, conn)
	if err != nil {
		n.log.Debug("peer", "error", errors.Join(err, conn.Close()))
		return
	}
	if from := peerName(conn); from != hello.FromNode() {
		replication.Refuse(conn, "the certificate is of "+from+", the greeting of "+hello.FromNode())
		return
	}
	n.mu.Lock()
	h := n.resources[hello.ResourceName()]
	n.mu.Unlock()
	if h == nil || h.resource == nil {
		replication.Refuse(conn, n.config.Name+" does not run resource "+hello.ResourceName()+" yet")
		return
	}
	h.resource.Accept(conn, hello)
}
