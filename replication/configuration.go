package replication

import (
	"slices"
	"time"

	"duet/bitmap"
)

// Configuration is the committed configuration of one resource, as this package needs it: who is Primary, who has
// every acknowledged write, and since when the others have not. Each committed change has the next Generation.
type Configuration struct {
	Resource   string   `json:"resource"`
	ResourceID [16]byte `json:"resource-id"`
	SizeBytes  uint64   `json:"size-bytes"`
	Generation uint64   `json:"generation"`
	// GrownApart says that the replicas may differ in what the last change of the size has added.
	GrownApart bool `json:"grown-apart,omitempty"`

	// Primary is the node that may acknowledge writes, "" for none; only its incarnation PrimaryIncarnation may.
	Primary            string `json:"primary"`
	PrimaryIncarnation uint64 `json:"primary-incarnation"`
	// PrimarySince is the generation in which this incarnation took the role.
	PrimarySince uint64 `json:"primary-since"`
	// Clean says that nobody is Primary and that all members of the in-sync set were flushed and equal.
	Clean bool `json:"clean"`

	InSync     []string  `json:"in-sync"`
	Replicas   []Replica `json:"replicas"`
	AckDurable bool      `json:"ack-durable"`
	LossCount  uint64    `json:"loss-count"`
	// ForcedAt is the generation of the newest change that was forced; 0: none was. What two replicas had in common before
	// it, no bitmap may tell.
	ForcedAt uint64 `json:"forced-at,omitempty"`

	// OnIOError is what becomes of a disk that refuses an operation; "": OnIOErrorDetach.
	OnIOError OnIOError `json:"on-io-error,omitempty"`
	// DiskTimeout is how long an operation on a disk may take before the disk counts as failed; 0: as Timing says,
	// negative: for ever.
	DiskTimeout time.Duration `json:"disk-timeout,omitempty"`
}

// OnIOError is what becomes of a disk that refuses an operation.
type OnIOError string

// The policies. Whatever refuses a write or a flush is given up in each of them: where a replica lacks a write, or may lose
// one, only its removal keeps the rest equal.
const (
	OnIOErrorDetach  OnIOError = "detach"  // it is given up, and the volume goes on through a peer
	OnIOErrorPassOn  OnIOError = "pass-on" // a Primary's read that fails is an error of that request, and the disk stays
	OnIOErrorHandler OnIOError = "handler" // like detach, and the node's handler is told
)

// Replica is one node's copy in a Configuration.
type Replica struct {
	Node string `json:"node"`
	// Slot is the replica's bitmap slot on all other nodes.
	Slot int `json:"slot"`
	// AddedAt is the generation that brought the replica into the record; 0: it was there from the start.
	AddedAt uint64 `json:"added-at,omitempty"`
	// LeftAt is the generation of the change that took the replica out of the in-sync set; 0: it was never in it.
	LeftAt uint64 `json:"left-at"`
	// AdmittedAt is the generation in which the replica last came into the set.
	AdmittedAt uint64 `json:"admitted-at"`
	// AdmittedBoot is the boot id of its machine as of then; "" if the record has none.
	AdmittedBoot string `json:"admitted-boot"`
	// Promised is the generation that it had promised durably by then.
	Promised uint64 `json:"promised"`
	// Fork is not zero if the replica may have acknowledged writes that the in-sync set lacks, because another was forced
	// into its place; Discard, if the operator has decided to give them up.
	Fork    Fork    `json:"fork,omitzero"`
	Discard Discard `json:"discard,omitzero"`
}

// Fork says when two sides of a split began to differ. One of them was in sync until the other was forced.
type Fork struct {
	At     uint64 `json:"at"`               // generation of the forced change
	Peer   string `json:"peer"`             // the replica of the other side whose bitmap, with this one's, may tell what differs
	Base   uint64 `json:"base,omitempty"`   // generation up to which both sides are the same; 0: no bitmap tells
	Forced bool   `json:"forced,omitempty"` // this replica is the one that was forced
}

// Discard is the decision to make a forked replica a copy of the in-sync set. What is overwritten is saved first.
type Discard struct {
	At   uint64 `json:"at"`
	Undo string `json:"undo,omitempty"` // path of the undo file; "": in the node's directory
}

// forked reports whether the replica of node is one side of a split, and not the one in sync.
func (c *Configuration) forked(node string) bool {
	r := c.replica(node)
	return r != nil && r.Fork.At != 0
}

// undecided reports whether the replica of node may neither be overwritten nor get writes.
func (c *Configuration) undecided(node string) bool {
	r := c.replica(node)
	return r != nil && r.Fork.At != 0 && r.Discard.At == 0
}

// split reports whether two nodes are on different sides of a split that nobody has decided about.
func (c *Configuration) split(a, b string) bool {
	return c.inSync(a) && c.undecided(b) || c.inSync(b) && c.undecided(a)
}

// inSync reports whether node is a member of the in-sync set.
func (c *Configuration) inSync(node string) bool { return slices.Contains(c.InSync, node) }

// restarted reports whether the machine of a member has restarted since it became one. Its page cache may have held
// acknowledged writes, so the record does not let it be promoted: it has to leave the set and come back.
func (c *Configuration) restarted(member, boot string) bool {
	r := c.replica(member)
	return !c.AckDurable && c.inSync(member) && r.AdmittedBoot != "" && r.AdmittedBoot != boot
}

// replica returns the entry of node, nil if it holds no replica.
func (c *Configuration) replica(node string) *Replica {
	for i := range c.Replicas {
		if c.Replicas[i].Node == node {
			return &c.Replicas[i]
		}
	}
	return nil
}

// othersMask is the set of slots of all replicas but self.
func (c *Configuration) othersMask(self string) bitmap.SlotMask {
	var mask bitmap.SlotMask
	for _, replica := range c.Replicas {
		if replica.Node != self {
			mask |= 1 << replica.Slot
		}
	}
	return mask
}

// outsideMask is the set of slots of the replicas outside the in-sync set, without self.
func (c *Configuration) outsideMask(self string) bitmap.SlotMask {
	var mask bitmap.SlotMask
	for _, replica := range c.Replicas {
		if replica.Node != self && !c.inSync(replica.Node) {
			mask |= 1 << replica.Slot
		}
	}
	return mask
}

// samePrimary reports whether both name the same incarnation of the same Primary.
func (c *Configuration) samePrimary(other *Configuration) bool {
	return c.Primary == other.Primary && c.PrimaryIncarnation == other.PrimaryIncarnation
}
