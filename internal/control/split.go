package control

import (
	"fmt"
	"strings"
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

// MaxSplitRanges is how many ranges of each side can be asked for.
const MaxSplitRanges = 4096

// SplitReport is both sides of a split, as far as they answer.
type SplitReport struct {
	Resource   string      `json:"resource"`
	Generation uint64      `json:"generation"`
	Primary    string      `json:"primary"`
	InSync     []string    `json:"in-sync"`
	Forks      []SplitFork `json:"forks"` // empty: there is no split
}

// SplitFork is a side that is not in sync, and how it differs from the one that is.
type SplitFork struct {
	Name       string     `json:"name"`
	Generation uint64     `json:"generation"` // since which there are two sides
	Time       *time.Time `json:"time"`       // when that was; nil: not known
	Base       uint64     `json:"base"`       // generation up to which both are the same; 0: not known
	Other      string     `json:"other"`      // the replica of the in-sync side that it is compared with
	Forced     bool       `json:"forced"`     // it is the one that was forced
	GivenUp    uint64     `json:"given-up"`   // generation in which it was given up; 0: it was not
	Undo       string     `json:"undo-file,omitempty"`

	Answers      bool      `json:"answers"`
	OtherAnswers bool      `json:"other-answers"`
	DiskState    DiskState `json:"disk-state,omitempty"`
	Reason       string    `json:"reason,omitempty"` // why nothing can be copied to it, though it is given up
	// Covered: the bitmaps have every block that differs. Else all blocks have to be compared, and the numbers are the least.
	Covered bool `json:"covered"`
	// HasKiB is what it changed and the other lacks, LacksKiB the other way round, DifferKiB both together; nil: not known.
	HasKiB    *uint64 `json:"has-KiB"`
	LacksKiB  *uint64 `json:"lacks-KiB"`
	DifferKiB *uint64 `json:"differ-KiB"`
	// Ranges of them, where they were asked for.
	HasRanges   []ByteRange `json:"has-ranges,omitempty"`
	LacksRanges []ByteRange `json:"lacks-ranges,omitempty"`
	MoreRanges  bool        `json:"more-ranges,omitempty"` // some are left out
}

// SplitSideRequest asks a node for its part of a SplitReport.
type SplitSideRequest struct {
	MaxRanges int `json:"max-ranges,omitempty"`
	// CheckUndo asks whether an undo file can be made, at the path Undo or where it is usual, for the decision of a generation.
	CheckUndo bool   `json:"check-undo,omitempty"`
	Undo      string `json:"undo,omitempty"`
	Decision  uint64 `json:"decision,omitempty"`
}

// SplitSide is what one node knows of its replica and of the others.
type SplitSide struct {
	Node        string      `json:"node"`
	Role        Role        `json:"role"`
	DiskState   DiskState   `json:"disk-state"`
	Reason      string      `json:"reason,omitempty"`
	Views       []SplitView `json:"views"`
	UndoFile    string      `json:"undo-file,omitempty"`
	UndoFreeKiB uint64      `json:"undo-free-KiB,omitempty"`
	UndoProblem string      `json:"undo-problem,omitempty"` // why it can't be made there
}

// SplitView is what a node's bitmap says of another replica.
type SplitView struct {
	Name          string      `json:"name"`
	CompleteSince uint64      `json:"complete-since"`
	KiB           uint64      `json:"KiB"`
	Ranges        []ByteRange `json:"ranges"`
	MoreRanges    bool        `json:"more-ranges"`
}

// View is what the side knows of another node; nil for nothing.
func (s *SplitSide) View(node string) *SplitView {
	for i := range s.Views {
		if s.Views[i].Name == node {
			return &s.Views[i]
		}
	}
	return nil
}

// SplitResolveRequest decides which side of a split is kept.
type SplitResolveRequest struct {
	Keep   string `json:"keep"`
	Undo   string `json:"undo-file,omitempty"` // path on the losing nodes; empty: in their own directories
	DryRun bool   `json:"dry-run,omitempty"`   // say what would happen, and do nothing
}

// SplitResolution is what a decision does, or would do.
type SplitResolution struct {
	Resource   string       `json:"resource"`
	Keep       string       `json:"keep"`
	DryRun     bool         `json:"dry-run"`
	Generation uint64       `json:"generation"` // committed; with DryRun the present one
	Forced     bool         `json:"forced"`     // the in-sync set is replaced
	Losers     []SplitLoser `json:"losers"`
}

// SplitLoser is a replica that becomes a copy of the side that is kept.
type SplitLoser struct {
	Name     string `json:"name"`
	Answers  bool   `json:"answers"`
	UndoFile string `json:"undo-file,omitempty"` // on its node; empty: not known yet
	// CopyKiB is what is copied to it at most, SaveKiB the room that the undo file needs at most for that; nil: not known, since
	// every block is compared.
	CopyKiB *uint64 `json:"copy-KiB"`
	SaveKiB *uint64 `json:"save-KiB"`
	FreeKiB *uint64 `json:"free-KiB"` // where the undo file is; nil: not known
	Problem string  `json:"problem,omitempty"`
}

// Validate checks the request. Its errors have CodeUsage.
func (r *SplitSideRequest) Validate() error {
	if r.MaxRanges < 0 || r.MaxRanges > MaxSplitRanges || len(r.Undo) > maxPathBytes {
		return Errorf(CodeUsage, "%d ranges, path of %d bytes: 0 to %d and %d are possible", r.MaxRanges, len(r.Undo), MaxSplitRanges, maxPathBytes)
	}
	return nil
}

// Validate checks the request. Its errors have CodeUsage.
func (r *SplitResolveRequest) Validate() error {
	if err := checkName("node to keep", r.Keep); err != nil {
		return err
	}
	if r.Undo != "" && (!strings.HasPrefix(r.Undo, "/") || len(r.Undo) > maxPathBytes) {
		return Errorf(CodeUsage, "the path of the undo file is one on the losing node: it must begin with / and have at most %d bytes", maxPathBytes)
	}
	return nil
}
