package quorum

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Bounds of the record. They keep a snapshot, a result and a log entry small whatever is proposed.
const (
	maxNodes     = 64   // a Raft group of more voters than this makes no sense, and each one costs every commit
	maxTokens    = 1024 // far above what joins need; used and expired ones are pruned
	maxResources = 1024 // a snapshot stays in the tens of MiB even with full histories
	maxReplicas  = 8    // bitmap slots of a volume
	maxHistory   = 256  // enough to judge a node that was away for long; older generations mean a full resync
	maxName      = 63   // names appear in paths, certificates and host names
	maxAddress   = 256
	maxPath      = 1024
	maxReason    = 256
	maxID        = 128
)

// Kind says what a node is for.
type Kind string

// The kinds of node.
const (
	Data    Kind = "data"    // votes and may hold replicas
	Witness Kind = "witness" // votes and holds none
)

// Promotion says who promotes a replica when the Primary is gone.
type Promotion string

// The promotion policies.
const (
	PromotionAuto   Promotion = "auto"
	PromotionManual Promotion = "manual"
)

// ResourceID identifies a resource for life; a name may be used again after a delete.
type ResourceID [16]byte

// String returns the identifier in hexadecimal.
func (id ResourceID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id ResourceID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ResourceID) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(id) {
		return fmt.Errorf("quorum: resource id of %d characters, want %d", len(text), hex.EncodedLen(len(id)))
	}
	_, err := hex.Decode(id[:], text)
	return err
}

// State is what the cluster has agreed on. A State that Node.State returned is never changed again, nor is anything
// it points to: apply copies what it changes.
type State struct {
	ClusterID string                `json:"cluster_id"`
	Version   uint64                `json:"version"` // raised by one by every accepted command
	Nodes     map[string]NodeRecord `json:"nodes"`
	Tokens    map[string]Token      `json:"tokens"`
	Resources map[string]*Resource  `json:"resources"`
	// Recovery counts how often the quorum was rebuilt after a majority was lost; nodes of before are of another cluster.
	Recovery   uint64     `json:"recovery,omitempty"`
	Recoveries []Recovery `json:"recoveries,omitempty"` // newest last, at most maxRecoveries
}

// NodeRecord is a member of the cluster.
type NodeRecord struct {
	Address     string `json:"address"`     // where its multiplexed port is reached; the Raft configuration follows it
	NBDAddress  string `json:"nbd_address"` // where clients reach it; "" for a witness
	Kind        Kind   `json:"kind"`
	Incarnation uint64 `json:"incarnation"` // of the newest process that registered; 0 = none yet
	RunID       string `json:"run_id"`      // random name of that process: tells a retry from a restored directory
	BootID      string `json:"boot_id"`     // of the machine when that process registered
	Pending     bool   `json:"pending"`     // joined by token, has never registered since
}

// Token is an invitation to join. The secret is not here: its holder proves itself with a certificate.
type Token struct {
	Expires int64  `json:"expires"` // Unix seconds
	UsedBy  string `json:"used_by,omitempty"`
}

// Resource is the committed record of one replicated device. Its Generation numbers its configurations: who is
// Primary and who is in sync.
//
// Invariants (checked by check and by the property test): InSync is sorted, never empty, and a subset of Replicas;
// Clean implies no Primary; a Fenced replica is not in InSync; PrimarySince <= Generation.
type Resource struct {
	Name      string     `json:"name"`
	ID        ResourceID `json:"id"`
	SizeBytes uint64     `json:"size_bytes"`
	// GrownApart: the replicas may differ in what the last change of the size has added; the Primary of that time has it right.
	GrownApart bool `json:"grown_apart,omitempty"`

	Generation         uint64 `json:"generation"`          // 1 at creation, +1 by every accepted change
	Primary            string `json:"primary"`             // "" = none
	PrimaryIncarnation uint64 `json:"primary_incarnation"` // the one process that may act as Primary; 0 when none
	PrimarySince       uint64 `json:"primary_since"`       // generation at which the last promoted incarnation became Primary
	Clean              bool   `json:"clean"`               // no Primary, and all of InSync is flushed and identical
	Hold               bool   `json:"hold"`                // the operator asked for no automatic promotion

	InSync   []string  `json:"in_sync"`
	Replicas []Replica `json:"replicas"` // sorted by Slot

	Promotion   Promotion `json:"promotion"`
	Preferred   string    `json:"preferred"`
	AckDurable  bool      `json:"ack_durable"`         // every acknowledgement means stable media, so a reboot loses nothing
	JustCreated bool      `json:"just_created"`        // its disks were made by duet, all holes: they were equal from the start
	LossCount   uint64    `json:"loss_count"`          // times that acknowledged writes may have been lost: all restarted, or force
	ForcedAt    uint64    `json:"forced_at,omitempty"` // generation of the newest forced change; 0 = there was none
	DiskPolicy

	History []Change `json:"history"` // newest last, at most maxHistory
}

// DiskPolicy is what becomes of a disk that fails. This package only keeps it.
type DiskPolicy struct {
	OnIOError     string `json:"on_io_error,omitempty"`     // detach, pass-on, handler; "": detach
	DiskTimeoutMS int64  `json:"disk_timeout_ms,omitempty"` // an operation that takes longer has failed; 0: the node's default, -1: never
}

func (p DiskPolicy) validate() error {
	switch p.OnIOError {
	case "", "detach", "pass-on", "handler":
	default:
		return refusef("the policy on I/O errors %s is none of detach, pass-on and handler", quoted(p.OnIOError))
	}
	if p.DiskTimeoutMS < -1 || p.DiskTimeoutMS > maxDiskTimeoutMS {
		return refusef("a disk timeout of %d ms is not possible", p.DiskTimeoutMS)
	}
	return nil
}

// maxDiskTimeoutMS is a day.
const maxDiskTimeoutMS = 24 * 60 * 60 * 1000

// Replica is a node's disk for a resource.
type Replica struct {
	Node     string `json:"node"`
	Slot     int    `json:"slot"` // of the bitmaps that the other replicas keep for this one
	Path     string `json:"path"`
	Metadata string `json:"metadata"`

	AddedAt      uint64 `json:"added_at,omitempty"` // generation that brought it into the record; 0 = it was there from the start
	LeftAt       uint64 `json:"left_at"`            // generation that took it out of InSync; 0 = it is in, or never was
	AdmittedAt   uint64 `json:"admitted_at"`        // generation that put it in last; 0 = never
	AdmittedBoot string `json:"admitted_boot"`      // boot id of its machine then: if that changed, its page cache is gone
	Promised     uint64 `json:"promised"`           // generation that it had promised durably by then: a disk that knows less is an older copy
	Fenced       bool   `json:"fenced"`             // was Primary when another was promoted
	FencedAt     uint64 `json:"fenced_at"`          // generation it has to have promised before it may come back

	Fork    Fork    `json:"fork,omitzero"`    // zero: its data are not of a side that was given up
	Discard Discard `json:"discard,omitzero"` // zero: its data may not be overwritten, if it has a Fork
}

// Fork marks a replica that was in sync when a forced change put another in place of the whole set: it may have
// acknowledged writes that the in-sync set lacks. It ends when the replica comes into the set.
type Fork struct {
	At     uint64 `json:"at"`               // generation of the forced change that began the split
	Peer   string `json:"peer"`             // the replica of the other side whose bitmap, with this one's, may say what differs
	Base   uint64 `json:"base,omitempty"`   // generation up to which both sides are the same; 0 = no bitmap can tell
	Forced bool   `json:"forced,omitempty"` // it is the one that was forced, given up later for the former set
}

// Discard is the operator's decision that a forked replica becomes a copy of the in-sync set. What that overwrites is
// saved first.
type Discard struct {
	At   uint64 `json:"at"`             // generation of the decision
	Undo string `json:"undo,omitempty"` // path of the undo file on the replica's node; "" = in the node's directory
}

// Change is an entry of a resource's history.
type Change struct {
	Generation uint64   `json:"generation"`
	Kind       string   `json:"kind"`
	Primary    string   `json:"primary"`
	InSync     []string `json:"in_sync"`
	Forced     bool     `json:"forced,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	Time       int64    `json:"time,omitempty"` // Unix seconds by the proposer's clock; 0 = not told
}

// newState returns the record before anything was agreed on.
func newState() *State {
	return &State{
		Nodes:     map[string]NodeRecord{},
		Tokens:    map[string]Token{},
		Resources: map[string]*Resource{},
	}
}

// clone copies the maps but not the resources: apply replaces a resource by a copy before it changes it.
func (s *State) clone() *State {
	next := *s
	next.Nodes = maps.Clone(s.Nodes)
	next.Tokens = maps.Clone(s.Tokens)
	next.Resources = maps.Clone(s.Resources)
	return &next
}

// clone copies everything that a command can change. History entries are immutable, so their slice alone is copied.
func (r *Resource) clone() *Resource {
	next := *r
	next.InSync = slices.Clone(r.InSync)
	next.Replicas = slices.Clone(r.Replicas)
	next.History = slices.Clone(r.History)
	return &next
}

// brief returns the record with only the newest entry of its history, which is what travels in results.
func (r *Resource) brief() *Resource {
	if r == nil || len(r.History) <= 1 {
		return r
	}
	b := *r
	b.History = r.History[len(r.History)-1:]
	return &b
}

// IsInSync reports whether node has every acknowledged write.
func (r *Resource) IsInSync(node string) bool { return slices.Contains(r.InSync, node) }

// Serves reports whether the resource has a Primary that may still be running: the process that registered last on its node. A newer
// process there has taken the place of one that was, and is nobody's Primary.
func (s *State) Serves(r *Resource) bool {
	return r.Primary != "" && s.Nodes[r.Primary].Incarnation == r.PrimaryIncarnation
}

// MayPromote says why an ordinary promotion of node would be refused; nil if it would not.
func (s *State) MayPromote(r *Resource, node string, incarnation uint64) error {
	_, err := r.promotable(s, node, incarnation)
	return err
}

// Replica returns node's replica.
func (r *Resource) Replica(node string) (Replica, bool) {
	if p := r.replica(node); p != nil {
		return *p, true
	}
	return Replica{}, false
}

func (r *Resource) replica(node string) *Replica {
	for i := range r.Replicas {
		if r.Replicas[i].Node == node {
			return &r.Replicas[i]
		}
	}
	return nil
}

// leave takes node out of the in-sync set as of generation at. The caller keeps the set from becoming empty.
func (r *Resource) leave(node string, at uint64) {
	r.InSync = slices.DeleteFunc(r.InSync, func(name string) bool { return name == node })
	if p := r.replica(node); p != nil {
		p.LeftAt = at
	}
}

// admit puts node into the in-sync set as of generation at.
func (r *Resource) admit(node, bootID string, at uint64) {
	if i, found := slices.BinarySearch(r.InSync, node); !found {
		r.InSync = slices.Insert(r.InSync, i, node)
	}
	p := r.replica(node)
	p.LeftAt, p.AdmittedAt, p.AdmittedBoot = 0, at, bootID
	p.Fenced, p.FencedAt = false, 0
	p.Fork, p.Discard = Fork{}, Discard{}
}

// advance closes a change: it raises the generation and writes history. It is the only place that does either.
func (r *Resource) advance(kind, reason string) {
	r.Generation++
	r.History = append(r.History, Change{
		Generation: r.Generation,
		Kind:       kind,
		Primary:    r.Primary,
		InSync:     slices.Clone(r.InSync),
		Reason:     shorten(reason),
	})
	if excess := len(r.History) - maxHistory; excess > 0 {
		r.History = slices.Delete(r.History, 0, excess)
	}
}

// stamp notes the proposer's clock in the newest entry of the history.
func (r *Resource) stamp(seconds int64) { r.History[len(r.History)-1].Time = seconds }

// shorten bounds a reason. A removal must not fail because its reason is long.
func shorten(reason string) string {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	return strings.ToValidUTF8(reason, "")
}

// check reports the first invariant that the record breaks. A decoded snapshot is adopted only if none is.
func (s *State) check() error {
	switch {
	case s.Nodes == nil || s.Tokens == nil || s.Resources == nil:
		return fmt.Errorf("a table is missing")
	case len(s.Nodes) > maxNodes || len(s.Tokens) > maxTokens || len(s.Resources) > maxResources:
		return fmt.Errorf("%d nodes, %d tokens, %d resources", len(s.Nodes), len(s.Tokens), len(s.Resources))
	}
	if len(s.Recoveries) > maxRecoveries || uint64(len(s.Recoveries)) > s.Recovery {
		return fmt.Errorf("%d notes of %d recoveries", len(s.Recoveries), s.Recovery)
	}
	for name, r := range s.Resources {
		if r == nil || r.Name != name {
			return fmt.Errorf("resource %q is missing or misnamed", name)
		}
		if err := r.check(); err != nil {
			return fmt.Errorf("resource %q: %w", name, err)
		}
	}
	return nil
}

func (r *Resource) check() error {
	switch {
	case r.Generation == 0:
		return fmt.Errorf("generation 0")
	case len(r.InSync) == 0:
		return fmt.Errorf("the in-sync set is empty")
	case !slices.IsSorted(r.InSync) || len(slices.Compact(slices.Clone(r.InSync))) != len(r.InSync):
		return fmt.Errorf("the in-sync set %v is not sorted and unique", r.InSync)
	case len(r.Replicas) > maxReplicas || len(r.History) > maxHistory:
		return fmt.Errorf("%d replicas, %d history entries", len(r.Replicas), len(r.History))
	case r.Clean && r.Primary != "":
		return fmt.Errorf("clean, yet %s is Primary", r.Primary)
	case (r.Primary == "") != (r.PrimaryIncarnation == 0):
		return fmt.Errorf("Primary %q of incarnation %d", r.Primary, r.PrimaryIncarnation)
	case r.PrimarySince > r.Generation || r.ForcedAt > r.Generation:
		return fmt.Errorf("Primary since %d, forced at %d, generation %d", r.PrimarySince, r.ForcedAt, r.Generation)
	}
	for _, name := range r.InSync {
		if p := r.replica(name); p == nil || p.Fenced || p.LeftAt != 0 || p.Fork != (Fork{}) {
			return fmt.Errorf("%s is in sync without an eligible replica", name)
		}
	}
	for i := range r.Replicas {
		if p := &r.Replicas[i]; p.Discard != (Discard{}) && p.Fork.At == 0 || p.Fork.At > r.Generation || p.Discard.At > r.Generation {
			return fmt.Errorf("%s has fork %+v and discard %+v in generation %d", p.Node, p.Fork, p.Discard, r.Generation)
		}
	}
	return nil
}
