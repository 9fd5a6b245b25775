package control

import (
	"fmt"
	"time"
)

// SplitReplica is a replica that was in sync when another was forced into its place: it may have acknowledged writes that the
// in-sync set lacks. Until the operator decides, it is neither overwritten nor given writes.
type SplitReplica struct {
	Name       string `json:"name"`
	Generation uint64 `json:"generation"` // of the forced change
	GivenUp    bool   `json:"given-up"`   // the operator has decided that it becomes a copy of the in-sync set
}

// ForceReport is what the operator has to know before a node is made Primary by force.
type ForceReport struct {
	Resource   string      `json:"resource"`
	Node       string      `json:"node"`
	Generation uint64      `json:"generation"`
	InSync     []string    `json:"in-sync"` // who has every acknowledged write
	Primary    string      `json:"primary"`
	DiskState  DiskState   `json:"disk-state"` // of this node
	LeftAt     uint64      `json:"left-at"`    // generation in which this replica left the in-sync set; 0: it never was in it, or is
	LeftTime   *time.Time  `json:"left-time"`  // when that was, by the clock of who removed it; nil: not known
	Peers      []ForcePeer `json:"peers"`
	Refusal    string      `json:"refusal,omitempty"` // why it will be refused
	Hint       string      `json:"hint,omitempty"`    // what to do instead
}

// ForcePeer is another replica, as far as it concerns a forced promotion.
type ForcePeer struct {
	Name    string `json:"name"`
	InSync  bool   `json:"in-sync"`
	Answers bool   `json:"answers"`
	// HereKiB is what this node's bitmap knows to differ, ThereKiB what the peer's bitmap does; nil: it can't be asked.
	HereKiB  uint64  `json:"here-KiB"`
	ThereKiB *uint64 `json:"there-KiB"`
}

// assessSplit is about a side that may not be touched.
func assessSplit(_ string, r *ResourceStatus) (string, string) {
	var undecided []string
	var since uint64
	for _, s := range r.Split {
		if !s.GivenUp {
			undecided = append(undecided, s.Name)
			since = s.Generation
		}
	}
	if len(undecided) == 0 {
		return "", ""
	}
	return fmt.Sprintf("split brain since generation %d: %s may have acknowledged writes that %s lacks, and the other way round; nothing is copied",
		since, join(undecided), either(r.InSync)), fmt.Sprintf("`duet split show %s`", r.Name)
}
