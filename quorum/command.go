package quorum

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Command is a change of the record, one of the types of this file. Commands that touch a resource carry the
// Generation they were made for.
type Command interface {
	// kind names the command in the log. It never changes once released.
	kind() string
	// apply makes the change on next, a private copy, or says why not. It returns the resource touched, if any. After
	// an error next is thrown away, so apply may leave it half changed.
	apply(next *State) (resource string, err error)
}

// InitCluster gives the cluster its identity and its first node. Repeating it is harmless; a second identity is refused.
type InitCluster struct {
	ClusterID string `json:"cluster_id"`
	Node      string `json:"node"`
	Address   string `json:"address"`
	Kind      Kind   `json:"node_kind"`
}

// RegisterNode makes a process the current incarnation of its node.
type RegisterNode struct {
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
	RunID       string `json:"run_id"`
	BootID      string `json:"boot_id"`
	Address     string `json:"address"`
	NBDAddress  string `json:"nbd_address"`
}

// AddToken issues an invitation. Now is the proposer's clock, used to forget tokens that expired long ago.
type AddToken struct {
	ID      string `json:"id"`
	Expires int64  `json:"expires"` // Unix seconds
	Now     int64  `json:"now"`     // Unix seconds
}

// JoinNode uses a token and makes its holder a node of the cluster, in one step. Now is the proposer's clock.
type JoinNode struct {
	Token      string `json:"token"`
	Now        int64  `json:"now"` // Unix seconds
	Node       string `json:"node"`
	Address    string `json:"address"`
	NBDAddress string `json:"nbd_address"`
	Kind       Kind   `json:"node_kind"`
}

// NewReplica is a replica as CreateResource and AddReplica are given it.
type NewReplica struct {
	Node     string `json:"node"`
	Slot     int    `json:"slot"`
	Path     string `json:"path"`
	Metadata string `json:"metadata"`
}

// CreateResource makes a record of generation 1: no Primary, clean. More than one node in InSync needs a ground:
// JustCreated (duet made the disks, they are all holes) or AssumeClean (the operator says they are equal).
type CreateResource struct {
	Name        string       `json:"name"`
	ID          ResourceID   `json:"id"`
	SizeBytes   uint64       `json:"size_bytes"`
	Replicas    []NewReplica `json:"replicas"`
	InSync      []string     `json:"in_sync"`
	JustCreated bool         `json:"just_created"`
	AssumeClean bool         `json:"assume_clean"`
	Promotion   Promotion    `json:"promotion"`
	Preferred   string       `json:"preferred"`
	AckDurable  bool         `json:"ack_durable"`
	DiskPolicy
}

// DeleteResource forgets a resource that has no Primary.
type DeleteResource struct {
	Resource   string `json:"resource"`
	Generation uint64 `json:"generation"`
}

// Promote makes Node the Primary. Proposed by the recorded Primary in a new incarnation it takes the role again.
type Promote struct {
	Resource    string `json:"resource"`
	Generation  uint64 `json:"generation"`
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
	Auto        bool   `json:"auto,omitempty"` // nobody asked for it
	Reason      string `json:"reason"`
	Now         int64  `json:"now,omitempty"` // Unix seconds by the proposer's clock, for the history
}

// Demote gives the role back. Clean says that no write is in flight and every in-sync replica is flushed and equal.
// Hold keeps the cluster from promoting anyone by itself until the next Promote.
type Demote struct {
	Resource    string `json:"resource"`
	Generation  uint64 `json:"generation"`
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
	Clean       bool   `json:"clean"`
	Hold        bool   `json:"hold"`
	Reason      string `json:"reason"`
}

// Switch hands the Primary's role to Target, which is in sync. Node, the Primary, says with it what a clean Demote says: no write is
// in flight and every in-sync replica is flushed and equal; and it serves nothing until it knows what became of the command.
type Switch struct {
	Resource    string `json:"resource"`
	Generation  uint64 `json:"generation"`
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
	Target      string `json:"target"`
	TargetInc   uint64 `json:"target_inc"`
	Reason      string `json:"reason"`
	Now         int64  `json:"now,omitempty"` // Unix seconds by the proposer's clock, for the history
}

// RemoveInSync takes Target out of the in-sync set, so that the Primary may acknowledge without it. If Target is not
// in the set the generation is raised all the same: that kills an AddInSync of it that may still be under way.
type RemoveInSync struct {
	Resource    string `json:"resource"`
	Generation  uint64 `json:"generation"`
	Proposer    string `json:"proposer"`
	ProposerInc uint64 `json:"proposer_inc"`
	Target      string `json:"target"`
	Reason      string `json:"reason"`
	Now         int64  `json:"now,omitempty"` // Unix seconds by the proposer's clock, for the history
}

// AddInSync puts Target into the in-sync set. The Primary waits for Target with every acknowledgement from before it
// proposes this. TargetPromised is the generation that Target has promised durably.
type AddInSync struct {
	Resource       string `json:"resource"`
	Generation     uint64 `json:"generation"`
	Proposer       string `json:"proposer"`
	ProposerInc    uint64 `json:"proposer_inc"`
	Target         string `json:"target"`
	TargetInc      uint64 `json:"target_inc"`
	TargetPromised uint64 `json:"target_promised"`
	Reason         string `json:"reason"`
}

// Detach takes the Primary's own replica out of the in-sync set: its disk has failed and it goes on through its peers.
type Detach struct {
	Resource    string `json:"resource"`
	Generation  uint64 `json:"generation"`
	Proposer    string `json:"proposer"`
	ProposerInc uint64 `json:"proposer_inc"`
	Reason      string `json:"reason"`
	Now         int64  `json:"now,omitempty"` // Unix seconds by the proposer's clock, for the history
}

// ReplaceDisk gives Node's replica, which is not in sync, another disk. It was never in sync: what it holds is copied there first.
type ReplaceDisk struct {
	Resource    string `json:"resource"`
	Generation  uint64 `json:"generation"`
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
	Path        string `json:"path"`
	Metadata    string `json:"metadata"`
	Now         int64  `json:"now,omitempty"` // Unix seconds by the proposer's clock, for the history
}

// GrowResource gives a resource a larger size. Prepared has, for each replica and nobody else, the incarnation of the process that
// has made room for it. Equal says that the new parts of the disks are the same everywhere; else the Primary's is what counts.
type GrowResource struct {
	Resource   string            `json:"resource"`
	Generation uint64            `json:"generation"`
	SizeBytes  uint64            `json:"size_bytes"`
	Prepared   map[string]uint64 `json:"prepared"`
	Equal      bool              `json:"equal"`
	Reason     string            `json:"reason"`
}

// mark changes nothing. Committing one proves that its proposer reached a majority, and its index is a point in the
// log that a reader can wait for.
type mark struct{}

func (InitCluster) kind() string    { return "init-cluster" }
func (RegisterNode) kind() string   { return "register-node" }
func (AddToken) kind() string       { return "add-token" }
func (JoinNode) kind() string       { return "join-node" }
func (RemoveNode) kind() string     { return "remove-node" }
func (CreateResource) kind() string { return "create" }
func (DeleteResource) kind() string { return "delete" }
func (Promote) kind() string        { return "promote" }
func (Demote) kind() string         { return "demote" }
func (Switch) kind() string         { return "switch" }
func (RemoveInSync) kind() string   { return "remove-in-sync" }
func (AddInSync) kind() string      { return "add-in-sync" }
func (Detach) kind() string         { return "detach" }
func (ReplaceDisk) kind() string    { return "replace-disk" }
func (Force) kind() string          { return "force" }
func (ResolveSplit) kind() string   { return "resolve-split" }
func (GrowResource) kind() string   { return "grow" }
func (AddReplica) kind() string     { return "add-replica" }
func (RemoveReplica) kind() string  { return "remove-replica" }
func (EditResource) kind() string   { return "edit" }
func (mark) kind() string           { return "mark" }

// commandVersion is the version of the envelope and of what the commands mean. A change of a guard or an effect is a
// change of meaning: two nodes that apply the same log differently no longer agree.
const commandVersion = 1

// maxCommandBytes bounds an encoded command. The largest legal one, a create with eight long paths, has about 20 KiB.
const maxCommandBytes = 64 << 10

// envelope is a command as it stands in the Raft log and in forward frames: JSON, one object.
type envelope struct {
	Version int             `json:"v"`
	Kind    string          `json:"kind"`
	Body    json.RawMessage `json:"body"`
}

// encodeCommand returns the envelope of c.
func encodeCommand(c Command) ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("quorum: encode command %s: %w", c.kind(), err)
	}
	data, err := json.Marshal(envelope{Version: commandVersion, Kind: c.kind(), Body: body})
	if err != nil {
		return nil, fmt.Errorf("quorum: encode command %s: %w", c.kind(), err)
	}
	if len(data) > maxCommandBytes {
		return nil, refusef("the command %s has %d bytes, at most %d are allowed", c.kind(), len(data), maxCommandBytes)
	}
	return data, nil
}

// decodeCommand reads an envelope. Unknown versions, kinds and fields are errors: a node that ignored what it does
// not know would apply the log differently from the others.
func decodeCommand(data []byte) (Command, error) {
	if len(data) > maxCommandBytes {
		return nil, fmt.Errorf("quorum: command of %d bytes, at most %d are allowed", len(data), maxCommandBytes)
	}
	var e envelope
	if err := decodeStrict(data, &e); err != nil {
		return nil, fmt.Errorf("quorum: command envelope: %w", err)
	}
	if e.Version != commandVersion {
		return nil, fmt.Errorf("quorum: command version %d, this node knows %d", e.Version, commandVersion)
	}
	decode, known := commandDecoders()[e.Kind]
	if !known {
		return nil, fmt.Errorf("quorum: unknown command %q", e.Kind)
	}
	c, err := decode(e.Body)
	if err != nil {
		return nil, fmt.Errorf("quorum: command %s: %w", e.Kind, err)
	}
	return c, nil
}

// commandDecoders maps each kind to the decoder of its body.
func commandDecoders() map[string]func([]byte) (Command, error) {
	decoders := map[string]func([]byte) (Command, error){}
	addDecoder[InitCluster](decoders)
	addDecoder[RegisterNode](decoders)
	addDecoder[AddToken](decoders)
	addDecoder[JoinNode](decoders)
	addDecoder[RemoveNode](decoders)
	addDecoder[CreateResource](decoders)
	addDecoder[DeleteResource](decoders)
	addDecoder[Promote](decoders)
	addDecoder[Demote](decoders)
	addDecoder[Switch](decoders)
	addDecoder[RemoveInSync](decoders)
	addDecoder[AddInSync](decoders)
	addDecoder[Detach](decoders)
	addDecoder[ReplaceDisk](decoders)
	addDecoder[Force](decoders)
	addDecoder[ResolveSplit](decoders)
	addDecoder[GrowResource](decoders)
	addDecoder[AddReplica](decoders)
	addDecoder[RemoveReplica](decoders)
	addDecoder[EditResource](decoders)
	addDecoder[mark](decoders)
	return decoders
}

func addDecoder[C Command](decoders map[string]func([]byte) (Command, error)) {
	var zero C
	decoders[zero.kind()] = func(body []byte) (Command, error) {
		var c C
		err := decodeStrict(body, &c)
		return c, err
	}
}

// decodeStrict decodes exactly one JSON value and refuses fields it does not know and anything that follows.
func decodeStrict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the JSON value")
	}
	return nil
}
