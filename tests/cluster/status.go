package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Status is what tests read of `duet status --json`; the keys are documented, so they are spelled here once more and
// not taken from the program.
type Status struct {
	Node      string     `json:"node"`
	Quorum    Quorum     `json:"quorum"`
	Resources []Resource `json:"resources"`
}

// Quorum is the state of the cluster's decisions.
type Quorum struct {
	HasQuorum bool   `json:"has-quorum"`
	Leader    string `json:"leader"`
}

// Resource is one resource on one node.
type Resource struct {
	Name        string       `json:"name"`
	Role        string       `json:"role"`
	Suspended   bool         `json:"suspended"`
	SuspendedBy string       `json:"suspended-by"`
	Devices     []Device     `json:"devices"`
	Connections []Connection `json:"connections"`
	Generation  uint64       `json:"generation"`
	InSync      []string     `json:"in-sync"`
	Primary     string       `json:"primary"`
	Resync      *Resync      `json:"resync"`
	Verify      *Verify      `json:"verify"`
	Reason      string       `json:"reason"`
	Verdict     string       `json:"verdict"`
}

// Device is the node's own disk.
type Device struct {
	DiskState string `json:"disk-state"`
	SizeKiB   uint64 `json:"size"`
}

// Connection is the connection with one peer.
type Connection struct {
	Name            string       `json:"name"`
	ConnectionState string       `json:"connection-state"`
	PeerRole        string       `json:"peer-role"`
	PeerDevices     []PeerDevice `json:"peer_devices"`
}

// PeerDevice is the peer's disk.
type PeerDevice struct {
	ReplicationState string `json:"replication-state"`
	PeerDiskState    string `json:"peer-disk-state"`
	OutOfSyncKiB     uint64 `json:"out-of-sync"`
	ReceivedKiB      uint64 `json:"received"`
	SentKiB          uint64 `json:"sent"`
}

// Resync is the progress of a resync, as `duet resync status --json` prints it.
type Resync struct {
	State    string `json:"state"`
	Source   string `json:"source"`
	Target   string `json:"target"`
	DoneKiB  uint64 `json:"done-KiB"`
	TotalKiB uint64 `json:"total-KiB"`
}

// Verify is the newest verify.
type Verify struct {
	State  string `json:"state"`
	Reason string `json:"reason"`
}

// parseStatus reads the output of `duet status --json`: the whole status, or like drbdsetup a list of resources.
func parseStatus(text []byte) (*Status, error) {
	s := new(Status)
	var err error
	if trimmed := bytes.TrimSpace(text); bytes.HasPrefix(trimmed, []byte("[")) {
		err = json.Unmarshal(trimmed, &s.Resources)
	} else {
		err = json.Unmarshal(trimmed, s)
	}
	if err != nil {
		return nil, fmt.Errorf("status is not as documented: %w: %.200s", err, text)
	}
	return s, nil
}

// Resource returns the resource of that name, nil when there is none.
func (s *Status) Resource(name string) *Resource {
	for i := range s.Resources {
		if s.Resources[i].Name == name {
			return &s.Resources[i]
		}
	}
	return nil
}

// DiskState is the state of the node's own disk.
func (r *Resource) DiskState() string {
	if len(r.Devices) == 0 {
		return "none"
	}
	return r.Devices[0].DiskState
}

// Peer returns the connection with that peer, nil when there is none.
func (r *Resource) Peer(name string) *Connection {
	for i := range r.Connections {
		if r.Connections[i].Name == name {
			return &r.Connections[i]
		}
	}
	return nil
}

// OutOfSyncKiB sums what is out of sync towards all peers.
func (r *Resource) OutOfSyncKiB() uint64 {
	var sum uint64
	for _, connection := range r.Connections {
		for _, device := range connection.PeerDevices {
			sum += device.OutOfSyncKiB
		}
	}
	return sum
}
