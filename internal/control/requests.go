package control

import "time"

// Promotion is the promotion policy of a resource.
type Promotion string

// The promotion policies.
const (
	PromotionAuto   Promotion = "auto"
	PromotionManual Promotion = "manual"
)

// Ack is what an acknowledged write means.
type Ack string

// The acknowledgement policies: every in-sync replica's device has accepted the write, or it is on stable media there.
const (
	AckDevice  Ack = "device"
	AckDurable Ack = "durable"
)

// OnIOError is what becomes of a disk that refuses an operation.
type OnIOError string

// The policies on I/O errors.
const (
	OnIOErrorDetach  OnIOError = "detach"  // it is given up
	OnIOErrorPassOn  OnIOError = "pass-on" // a read of the Primary fails; what refuses a write is given up
	OnIOErrorHandler OnIOError = "handler" // it is given up, and handlers/local-io-error is run
)

// The bounds of a disk timeout: below, a disk that is busy would be taken for one that is stuck.
const (
	MinDiskTimeout = 100 * time.Millisecond
	MaxDiskTimeout = 24 * time.Hour
)

// MetadataInternal as the Metadata of a replica means: at the end of the disk itself.
const MetadataInternal = "internal"

// Replica is the place of one replica of a resource.
type Replica struct {
	Node string `json:"node"`
	Path string `json:"path"` // of the file or block device, on that node
}

// ResourceCreateRequest asks for a new resource.
type ResourceCreateRequest struct {
	Name      string    `json:"name"`
	SizeBytes uint64    `json:"size-bytes"`
	Replicas  []Replica `json:"replicas"`
	// Metadata is empty for a file in each node's directory, MetadataInternal, or a path that is used on every node.
	Metadata  string    `json:"metadata,omitempty"`
	Promotion Promotion `json:"promotion,omitempty"` // empty: auto
	Preferred string    `json:"preferred,omitempty"` // empty: the node of the first replica
	Ack       Ack       `json:"ack,omitempty"`       // empty: device
	// OnIOError is what becomes of a disk that refuses an operation; empty: detach.
	OnIOError OnIOError `json:"on-io-error,omitempty"`
	// DiskTimeout is how long an operation on a disk may take; 0: the default, negative: for ever.
	DiskTimeout Duration `json:"disk-timeout,omitempty"`
	// AssumeClean is the operator's word that the disks hold the same data already.
	AssumeClean bool `json:"assume-clean,omitempty"`
	// Force allows disks that hold something else.
	Force bool `json:"force,omitempty"`
}

// ResourceDeleteRequest asks for the end of a resource. The disks keep their data.
type ResourceDeleteRequest struct {
	Force bool `json:"force,omitempty"` // also with a replica that can't be reached
}

// ResizeRequest asks for a larger size.
type ResizeRequest struct {
	SizeBytes uint64 `json:"size-bytes"`
	// AssumeClean is the operator's word that what is new on the disks is the same on all of them.
	AssumeClean bool `json:"assume-clean,omitempty"`
}

// MakeRoomRequest asks a node for room on the disk and in the metadata of its replica.
type MakeRoomRequest struct {
	Resource  string `json:"resource"`
	FromBytes uint64 `json:"from-bytes"` // the size as whoever asks knows it
	SizeBytes uint64 `json:"size-bytes"`
	Look      bool   `json:"look,omitempty"` // only say whether it is possible
}

// Room is what a node has made.
type Room struct {
	Incarnation uint64 `json:"incarnation"` // of the process that has made it
	Zeroes      bool   `json:"zeroes"`      // what is new on the disk holds nothing, and reads as zeroes
}

// ResourceRecord is a resource as the cluster has committed it.
type ResourceRecord struct {
	Name       string          `json:"name"`
	ID         string          `json:"id"` // 32 hexadecimal digits
	SizeBytes  uint64          `json:"size-bytes"`
	Generation uint64          `json:"generation"`
	Primary    string          `json:"primary"`
	Clean      bool            `json:"clean"` // the last Primary left in good order
	Hold       bool            `json:"hold"`  // no automatic promotion until `duet primary`
	InSync     []string        `json:"in-sync"`
	Replicas   []ReplicaRecord `json:"replicas"`
	Promotion  Promotion       `json:"promotion"`
	Preferred  string          `json:"preferred"`
	Ack        Ack             `json:"ack"`
	OnIOError  OnIOError       `json:"on-io-error"`
	// DiskTimeout is negative where nothing is too slow.
	DiskTimeout Duration         `json:"disk-timeout"`
	History     []GenerationNote `json:"history"` // newest last
	// Warnings are for the one who created it: no witness, a full initial sync, ...
	Warnings []string `json:"warnings,omitempty"`
}

// ReplicaRecord is a replica as the cluster has committed it.
type ReplicaRecord struct {
	Node     string `json:"node"`
	Slot     int    `json:"slot"`
	Path     string `json:"path"`
	Metadata string `json:"metadata"`
}

// GenerationNote is one entry of a resource's history.
type GenerationNote struct {
	Generation uint64   `json:"generation"`
	Kind       string   `json:"kind"`
	Primary    string   `json:"primary"`
	InSync     []string `json:"in-sync"`
	Forced     bool     `json:"forced,omitempty"`
	Reason     string   `json:"reason,omitempty"`
}

// AttachRequest says which disk a replica is to use.
type AttachRequest struct {
	// Path is of another disk, which takes the place of the one that the record names; empty: that one.
	Path string `json:"path,omitempty"`
	// Metadata of another disk: empty for where those of the former were, MetadataInternal, or a path.
	Metadata string `json:"metadata,omitempty"`
	// Force allows another disk that holds something.
	Force bool `json:"force,omitempty"`
}

// PrimaryRequest asks a node to become Primary.
type PrimaryRequest struct {
	Force bool `json:"force,omitempty"`
	// With Force: the generation of the ForceReport that the operator has agreed to.
	Generation uint64 `json:"generation,omitempty"`
	// AcceptInconsistent allows, with Force, a disk that a resync has overwritten in part.
	AcceptInconsistent bool `json:"accept-inconsistent,omitempty"`
}

// RoleChange is the result of a change of role.
type RoleChange struct {
	Role       Role   `json:"role"`
	Generation uint64 `json:"generation"`
	Message    string `json:"message,omitempty"` // what else the operator should know
}

// SuspendRequest asks a Primary to let all requests of clients wait, and to answer when none is under way any more.
type SuspendRequest struct {
	Flush   bool     `json:"flush,omitempty"`   // what was written is to be on stable media of every in-sync replica
	For     Duration `json:"for,omitempty"`     // after which they go on by themselves; 0: never
	Timeout Duration `json:"timeout,omitempty"` // for what is under way to end; then nothing is suspended. 0: as long as the call may take
}

// Suspension is what SuspendRequest has reached.
type Suspension struct {
	Until  *time.Time `json:"until"`   // nil: until ResumeIO
	InSync []string   `json:"in-sync"` // the replicas whose disks are equal meanwhile
	Flush  bool       `json:"flush"`   // and that have everything on stable media
}

// VerifyRequest asks a Primary to compare its disk with those of the other in-sync replicas.
type VerifyRequest struct {
	Repair bool `json:"repair,omitempty"` // copy what differs from the Primary
	// BytesPerSecond is how much of each disk is read at most; 0: no limit.
	BytesPerSecond uint64 `json:"bytes-per-second,omitempty"`
}

// VerifyCancelRequest says which verify is to end.
type VerifyCancelRequest struct {
	Run uint64 `json:"run,omitempty"` // 0: whichever is under way
}

// PeerRequest names the peer a connect or disconnect is about; empty means all peers.
type PeerRequest struct {
	Peer string `json:"peer,omitempty"`
}

// Comparison says when a resync compares hashes before it copies.
type Comparison string

// The comparisons: when much is likely to be equal, or always.
const (
	CompareAuto   Comparison = "auto"
	CompareAlways Comparison = "always"
)

// ResyncRequest changes how a node takes part in resyncs, until it restarts; nil leaves a thing as it is.
type ResyncRequest struct {
	Paused  *bool       `json:"paused,omitempty"`
	MaxRate *uint64     `json:"max-rate,omitempty"` // bytes per second, for each resync; 0 lifts the limit
	Compare *Comparison `json:"compare,omitempty"`
}

// TokenRequest asks for a join token.
type TokenRequest struct {
	TTL Duration `json:"ttl"`
}

// Token is a join token and when it stops working.
type Token struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// JoinRequest is what `duet join` says to a member, over the connection its token admits it to.
type JoinRequest struct {
	Name       string   `json:"name"`
	Kind       NodeKind `json:"kind"`
	Address    string   `json:"address"`     // where the other nodes reach this one
	NBDAddress string   `json:"nbd-address"` // empty for a witness
	CSR        []byte   `json:"csr,omitempty"`
}

// JoinReply makes a directory that of a member.
type JoinReply struct {
	ClusterID   string   `json:"cluster-id"`
	Certificate []byte   `json:"certificate,omitempty"` // PEM
	CA          []byte   `json:"ca,omitempty"`          // PEM
	CAKey       []byte   `json:"ca-key,omitempty"`      // PEM; data nodes only
	Peers       []Member `json:"peers"`
	// Incarnation is the last one that the cluster knows of a node of this name; those of the new one must be above it.
	Incarnation uint64 `json:"incarnation,omitempty"`
	// Recovery is how often the quorum of the cluster was rebuilt.
	Recovery uint64 `json:"recovery,omitempty"`
}

// Member is a node's name and where it is reached.
type Member struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// EventsRequest says which events are wanted.
type EventsRequest struct {
	Resource string // empty: all
	Follow   bool   // go on with those that happen from now on
}

// PrepareReplicaRequest asks a node to make or check the disk and the metadata of a replica, so that the resource can
// be committed. The node keeps both open, or locked, until the resource is committed or DropReplica undoes it.
type PrepareReplicaRequest struct {
	Resource  string `json:"resource"`
	ID        string `json:"id"` // 32 hexadecimal digits; also what DropReplica must match
	Slot      int    `json:"slot"`
	SizeBytes uint64 `json:"size-bytes"`
	Path      string `json:"path"`
	Metadata  string `json:"metadata,omitempty"` // as in ResourceCreateRequest
	Force     bool   `json:"force,omitempty"`
	// KeepContent allows a disk with data, which are to be the resource's; metadata of another one are none.
	KeepContent bool `json:"keep-content,omitempty"`
}

// PreparedReplica is what PrepareReplica found and did.
type PreparedReplica struct {
	Created  bool   `json:"created"`  // the disk was absent and is all holes now
	Path     string `json:"path"`     // absolute
	Metadata string `json:"metadata"` // absolute, or MetadataInternal
}

// DropReplicaRequest asks a node to undo PrepareReplica: to remove the metadata, and the disk if it was created.
type DropReplicaRequest struct {
	Resource string `json:"resource"`
	ID       string `json:"id"`
}
