package control

import "time"

// Role is what a node does with a resource.
type Role string

// The roles. Unknown is only ever said of a peer.
const (
	RolePrimary   Role = "Primary"
	RoleSecondary Role = "Secondary"
	RoleUnknown   Role = "Unknown"
)

// Who lets requests wait, in ResourceStatus.SuspendedBy.
const (
	SuspendedByNobody  = "no"
	SuspendedByUser    = "user"
	SuspendedByCluster = "cluster"
)

// DiskState says how good a replica's data are.
type DiskState string

// The disk states, in DRBD's words. DUnknown is only ever said of a peer's disk.
const (
	DiskDiskless     DiskState = "Diskless"
	DiskAttaching    DiskState = "Attaching"
	DiskDetaching    DiskState = "Detaching"
	DiskFailed       DiskState = "Failed"
	DiskInconsistent DiskState = "Inconsistent"
	DiskOutdated     DiskState = "Outdated"
	DiskUnknown      DiskState = "DUnknown"
	DiskConsistent   DiskState = "Consistent"
	DiskUpToDate     DiskState = "UpToDate"
)

// ConnectionState says how far the sessions with a peer are.
type ConnectionState string

// The connection states. StandAlone is the operator's `duet disconnect`: nothing tries to connect.
const (
	ConnectionStandAlone    ConnectionState = "StandAlone"
	ConnectionDisconnecting ConnectionState = "Disconnecting"
	ConnectionUnconnected   ConnectionState = "Unconnected"
	ConnectionConnecting    ConnectionState = "Connecting"
	ConnectionConnected     ConnectionState = "Connected"
	// ConnectionSplitBrain is duet's own: connected, but each side may have acknowledged writes that the other lacks.
	// Nothing is copied until `duet split resolve`.
	ConnectionSplitBrain ConnectionState = "SplitBrain"
)

// ReplicationState says what is going on between the two disks of a connection.
type ReplicationState string

// The replication states.
const (
	ReplicationOff         ReplicationState = "Off"
	ReplicationEstablished ReplicationState = "Established"
	ReplicationSyncSource  ReplicationState = "SyncSource"
	ReplicationSyncTarget  ReplicationState = "SyncTarget"
	ReplicationPausedSyncS ReplicationState = "PausedSyncS"
	ReplicationPausedSyncT ReplicationState = "PausedSyncT"
	ReplicationVerifyS     ReplicationState = "VerifyS"
	ReplicationVerifyT     ReplicationState = "VerifyT"
)

// Status is what one node knows: of itself, of the cluster as its own copy of the committed record has it, and of
// every resource it has a replica of.
type Status struct {
	Node      string           `json:"node"`
	Kind      NodeKind         `json:"kind"`
	Cluster   string           `json:"cluster"`
	Version   string           `json:"version"`
	Quorum    QuorumStatus     `json:"quorum"`
	Resources []ResourceStatus `json:"resources"`
}

// QuorumStatus is the state of the cluster's Raft group as this node sees it.
type QuorumStatus struct {
	// HasQuorum is whether this node is in contact with a majority of the voters.
	HasQuorum bool          `json:"has-quorum"`
	Leader    string        `json:"leader"` // a node's name; empty when there is none or it is not known
	Term      uint64        `json:"term"`
	Voters    []VoterStatus `json:"voters"`
}

// VoterStatus is one voter as this node sees it.
type VoterStatus struct {
	Name      string `json:"name"`
	Address   string `json:"address"`
	Reachable bool   `json:"reachable"`
}

// ResourceStatus is one resource on one node. Its keys, and those of the types it is made of, are the ones of
// `drbdsetup status --json`, with its units (sizes and counts of data in KiB), so that tools made for DRBD can read
// it; the keys after Connections are duet's own.
type ResourceStatus struct {
	Name          string             `json:"name"`
	NodeID        int                `json:"node-id"` // the slot of this node's replica; -1 without one
	Role          Role               `json:"role"`
	Suspended     bool               `json:"suspended"`
	WriteOrdering string             `json:"write-ordering"`
	Devices       []DeviceStatus     `json:"devices"`
	Connections   []ConnectionStatus `json:"connections"`

	Generation uint64   `json:"generation"`
	InSync     []string `json:"in-sync"` // the in-sync set of the generation, sorted
	Primary    string   `json:"primary"` // the Primary of the generation; empty when there is none
	// MayPromote says whether `duet primary` on this node would be granted, as far as it knows.
	MayPromote bool `json:"may-promote"`
	// Takeover says what automatic promotion waits for, when there is no Primary that is heard.
	Takeover string        `json:"takeover,omitempty"`
	Lease    *LeaseStatus  `json:"lease"`  // nil where reads need no lease
	Resync   *ResyncStatus `json:"resync"` // the resync that ends last of those this node takes part in; nil without any
	// SuspendedBy says who lets requests wait: "user" after `duet suspend-io`, else "cluster" (a commit or a peer is waited for);
	// "no" if nobody does. SuspendedUntil is when the user's suspension ends by itself; nil: never, or there is none.
	SuspendedBy    string     `json:"suspended-by"`
	SuspendedUntil *time.Time `json:"suspended-until,omitempty"`
	// Verify is the newest verify that was begun on this node, without the ranges; nil without any.
	Verify *VerifyStatus `json:"verify"`
	// Split is the replicas that were in sync when another was forced into their place; nil without any.
	Split []SplitReplica `json:"split,omitempty"`
	// Reason says why the resource is not what it should be (why it is suspended, not connected, not UpToDate);
	// empty when all is well.
	Reason string `json:"reason"`
	// Verdict is the state in one line, and NextStep what the operator may do about it, empty for nothing. A node
	// that leaves Verdict empty gets both from Assess.
	Verdict  string `json:"verdict"`
	NextStep string `json:"next-step"`
}

// DeviceStatus is this node's own disk of one volume.
type DeviceStatus struct {
	Volume       int       `json:"volume"`
	Minor        int       `json:"minor"` // always 0: duet has no kernel minor
	DiskState    DiskState `json:"disk-state"`
	Client       bool      `json:"client"` // diskless on purpose
	Quorum       bool      `json:"quorum"`
	SizeKiB      uint64    `json:"size"`
	ReadKiB      uint64    `json:"read"`
	WrittenKiB   uint64    `json:"written"`
	ALWrites     uint64    `json:"al-writes"`
	BitmapWrites uint64    `json:"bm-writes"`
	UpperPending uint64    `json:"upper-pending"` // requests of the application without a reply yet
	LowerPending uint64    `json:"lower-pending"` // of those, requests the local disk has not finished
}

// ConnectionStatus is the connection with one peer.
type ConnectionStatus struct {
	PeerNodeID      int                `json:"peer-node-id"`
	Name            string             `json:"name"`
	ConnectionState ConnectionState    `json:"connection-state"`
	Congested       bool               `json:"congested"`
	PeerRole        Role               `json:"peer-role"`
	TLS             bool               `json:"tls"`
	APInFlightKiB   uint64             `json:"ap-in-flight"` // application data sent and not acknowledged
	RSInFlightKiB   uint64             `json:"rs-in-flight"` // resync data asked for and not arrived
	PeerDevices     []PeerDeviceStatus `json:"peer_devices"`
	// Reason says why the connection is not Connected: whose turn it is to act, and what the last attempt met.
	Reason string `json:"reason,omitempty"`
}

// PeerDeviceStatus is one volume of a connection.
type PeerDeviceStatus struct {
	Volume           int              `json:"volume"`
	ReplicationState ReplicationState `json:"replication-state"`
	PeerDiskState    DiskState        `json:"peer-disk-state"`
	PeerClient       bool             `json:"peer-client"`
	ResyncSuspended  string           `json:"resync-suspended"` // "no", or who suspended it: "user", "peer", "user,peer"
	ReceivedKiB      uint64           `json:"received"`
	SentKiB          uint64           `json:"sent"`
	OutOfSyncKiB     uint64           `json:"out-of-sync"`
	Pending          uint64           `json:"pending"` // requests sent to the peer and not answered
	Unacked          uint64           `json:"unacked"` // requests of the peer not answered yet
	HasSyncDetails   bool             `json:"has-sync-details"`
	PercentInSync    float64          `json:"percent-in-sync"`
	Resync           *ResyncStatus    `json:"resync,omitempty"` // duet's own; nil without a resync with this peer
}

// LeaseStatus is what allows a Primary to serve reads.
type LeaseStatus struct {
	Mode      string   `json:"mode"` // "lease" or "confirm"
	Valid     bool     `json:"valid"`
	MarginMS  int64    `json:"margin-ms"`  // time left on the shortest lease
	WaitingOn []string `json:"waiting-on"` // the peers whose lease is missing
}

// ResyncState says whether a resync makes progress.
type ResyncState string

// The resync states.
const (
	ResyncNone    ResyncState = "none"
	ResyncWaiting ResyncState = "waiting" // for the bitmap exchange, or for another resync
	ResyncRunning ResyncState = "running"
	ResyncPaused  ResyncState = "paused"
)

// ResyncStatus is the progress of one resync. Without a resync State is ResyncNone and the rest is zero.
type ResyncStatus struct {
	Resource string      `json:"resource"`
	State    ResyncState `json:"state"`
	Source   string      `json:"source"`
	Target   string      `json:"target"`
	DoneKiB  uint64      `json:"done-KiB"`
	TotalKiB uint64      `json:"total-KiB"`
	RateKiBs uint64      `json:"rate"`  // KiB per second, of late
	ETA      *int64      `json:"eta-s"` // nil while it can't be told
	PausedBy []string    `json:"paused-by"`
	// MaxRateKiBs is the limit that this node's operator has set; 0: none.
	MaxRateKiBs uint64 `json:"max-rate,omitempty"`
}

// VerifyState says how far a verify is.
type VerifyState string

// The states of a verify.
const (
	VerifyNone      VerifyState = "none"
	VerifyRunning   VerifyState = "running"
	VerifyRepairing VerifyState = "repairing" // compared; what differs is copied again
	VerifyDone      VerifyState = "done"
	VerifyCancelled VerifyState = "cancelled"
	VerifyFailed    VerifyState = "failed" // it ended early, for the reason given
)

// VerifyStatus is the progress or the result of a verify. Without one State is VerifyNone and the rest is zero.
type VerifyStatus struct {
	Resource string       `json:"resource"`
	Run      uint64       `json:"run"` // its number since the start of the daemon
	State    VerifyState  `json:"state"`
	Reason   string       `json:"reason"`
	Repair   bool         `json:"repair"`
	DoneKiB  uint64       `json:"done-KiB"`
	TotalKiB uint64       `json:"total-KiB"`
	RateKiBs uint64       `json:"rate"`  // KiB per second
	ETA      *int64       `json:"eta-s"` // nil while it can't be told
	Began    time.Time    `json:"began"`
	Ended    *time.Time   `json:"ended"` // nil while it goes on
	Peers    []VerifyPeer `json:"peers"`
}

// VerifyPeer is what the comparison with one peer has shown.
type VerifyPeer struct {
	Name         string      `json:"name"`
	DifferentKiB uint64      `json:"different-KiB"`
	Ranges       []ByteRange `json:"ranges"`      // what differs, in order; only the first of very many
	MoreRanges   int         `json:"more-ranges"` // those that are left out
	Exact        bool        `json:"exact"`       // false: so many that neighbouring ranges were joined
	Repaired     bool        `json:"repaired"`
}

// Different is whether a peer differs, as far as is known, and was not repaired.
func (v *VerifyStatus) Different() bool {
	for i := range v.Peers {
		if p := &v.Peers[i]; p.DifferentKiB > 0 && !p.Repaired {
			return true
		}
	}
	return false
}

// ByteRange is a part of a device.
type ByteRange struct {
	Offset uint64 `json:"offset"`
	Length uint64 `json:"length"`
}

// NodeKind says whether a node may hold data.
type NodeKind string

// The kinds of nodes.
const (
	KindData    NodeKind = "data"
	KindWitness NodeKind = "witness"
)

// NodeInfo is a member of the cluster, as committed, with this node's view of it.
type NodeInfo struct {
	Name        string   `json:"name"`
	Kind        NodeKind `json:"kind"`
	Address     string   `json:"address"`
	NBDAddress  string   `json:"nbd-address"`
	Incarnation uint64   `json:"incarnation"`
	Pending     bool     `json:"pending"` // joined, and not yet seen running
	Self        bool     `json:"self"`
	Leader      bool     `json:"leader"`
	Voter       bool     `json:"voter"`
	Reachable   bool     `json:"reachable"`
}

// VersionInfo names the program a daemon runs.
type VersionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
	Protocol int    `json:"protocol"` // of the peer connections
}

// Event is one change of state, with its reason.
type Event struct {
	Sequence   uint64    `json:"sequence"` // rises by one per event of a daemon's life
	Time       time.Time `json:"time"`
	Node       string    `json:"node"`
	Resource   string    `json:"resource,omitempty"`
	Peer       string    `json:"peer,omitempty"`
	Kind       string    `json:"kind"` // "role", "disk", "connection", "replication", "generation", "resync", ...
	Old        string    `json:"old,omitempty"`
	New        string    `json:"new,omitempty"`
	Generation uint64    `json:"generation,omitempty"`
	Message    string    `json:"message"`
}

// Health is what /healthz and /readyz say. A process that can answer is alive, so there is only readiness to report.
type Health struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"` // why not
}
