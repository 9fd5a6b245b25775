package replication

import (
	"fmt"

	"duet/bitmap"
)

// helloTo is what this node says of itself to a peer.
func (r *Resource) helloTo(l *link) hello {
	sb := r.superblock()
	h := hello{
		Version: ProtocolVersion, ClusterID: r.cfg.ClusterID, Resource: r.name, ResourceID: r.id,
		From: r.cfg.Node, To: l.node, Incarnation: r.cfg.Incarnation, BootID: r.cfg.BootID,
		Role: r.role(), DiskState: r.diskState(), SizeBytes: r.volume.SizeBytes(), Volumes: 1,
		Promised: sb.Promised, DataGeneration: sb.DataGeneration, LastInSync: sb.LastInSync,
		Inconsistent: sb.Inconsistent, JustCreated: sb.JustCreated,
		Recovered: r.recovered&bitmap.SlotBit(l.slot) != 0, Features: append(r.features.names(), verifyFeature, pullFeature),
	}
	if l.slot < len(sb.Peers) && sb.Peers[l.slot].Name == l.node {
		h.CompleteSince = sb.Peers[l.slot].CompleteSince
	}
	h.NotTarget = reasonText(r.notTarget())
	if r.serving {
		h.PrimarySince = r.adopted.PrimarySince
	}
	if r.local != nil && !r.detached {
		h.DirtyBlocks = r.local.store.DirtyBlocks(l.slot)
	}
	return h
}

// checkHello refuses a peer of something else, in words.
func (r *Resource) checkHello(theirs *hello) error {
	switch {
	case theirs.Version != ProtocolVersion:
		return fmt.Errorf("%w: %s speaks version %d of the peer protocol, this node version %d: run the same release on both",
			ErrRefused, theirs.From, theirs.Version, ProtocolVersion)
	case theirs.ClusterID != r.cfg.ClusterID:
		return fmt.Errorf("%w: %s belongs to another cluster", ErrRefused, theirs.From)
	case [16]byte(theirs.ResourceID) != r.id:
		return fmt.Errorf("%w: %s has another resource of the name %s", ErrRefused, theirs.From, theirs.Resource)
	case theirs.To != r.cfg.Node:
		return fmt.Errorf("%w: %s wanted %s, this is %s", ErrRefused, theirs.From, theirs.To, r.cfg.Node)
	}
	return nil
}

// role is this node's.
func (r *Resource) role() string {
	if r.serving {
		return "Primary"
	}
	return "Secondary"
}

// diskState is DRBD's word for the local disk: what the committed record and the superblock say together.
func (r *Resource) diskState() string {
	sb := r.superblock()
	switch {
	case r.super == nil:
		return "Diskless"
	case r.detached:
		return "Failed"
	case sb.Inconsistent && (!r.adopted.inSync(r.cfg.Node) || sb.InconsistentSince >= r.adopted.replica(r.cfg.Node).AdmittedAt):
		return "Inconsistent"
	case r.adopted.Generation == 0:
		return "Consistent"
	case r.adopted.inSync(r.cfg.Node) && r.learned.inSync(r.cfg.Node):
		return "UpToDate"
	}
	return "Outdated"
}

// inconsistentReason is what the operator is told of a replica in the in-sync set that is not.
const inconsistentReason = "its disk failed, or disk and metadata were not last used together; an in-sync peer has to bring it up to date"

// outOfSync is the bytes that this node knows the peer in the slot to lack.
func (r *Resource) outOfSync(slot int) uint64 {
	if r.local == nil {
		return 0
	}
	return r.local.store.DirtyBlocks(slot) * bitmap.BlockBytes
}
