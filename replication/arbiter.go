package replication

import "context"

// Arbiter is what replication needs of the quorum: a place where a change of the configuration either commits,
// compare-and-set on the generation, or does not.
type Arbiter interface {
	// Propose returns the configuration that the committed proposal made. An error that is ErrStale, ErrRejected or ErrNoMajority
	// means that it did not commit; any other error leaves the outcome unknown, and the same proposal may be made
	// again: the generation makes a late duplicate harmless.
	Propose(ctx context.Context, p Proposal) (Configuration, error)
}

// ProposalKind names a change of the configuration.
type ProposalKind string

// The changes that replication proposes; research of the rules: docs/QUORUM.md.
const (
	ProposePromote ProposalKind = "promote" // the proposer becomes Primary
	ProposeDemote  ProposalKind = "demote"  // the Primary gives its role up
	ProposeSwitch  ProposalKind = "switch"  // the Primary hands its role to Target, and the set stays
	ProposeRemove  ProposalKind = "remove"  // the Primary takes Target out of the in-sync set
	ProposeAdd     ProposalKind = "add"     // the Primary takes Target into the in-sync set
	ProposeDetach  ProposalKind = "detach"  // the Primary leaves the in-sync set and goes on through its peers
	ProposeForce   ProposalKind = "force"   // the proposer becomes Primary, and the whole in-sync set, by the operator's word
)

// Proposal is one change, valid only for Generation.
type Proposal struct {
	Kind        ProposalKind
	Resource    string
	Generation  uint64
	Node        string // the proposer
	Incarnation uint64 // of the proposer

	Target            string
	TargetIncarnation uint64
	TargetPromised    uint64
	Clean             bool   // of a demotion: every replica of the set is flushed and equal
	Auto              bool   // of a promotion: nobody asked for it
	Hold              bool   // of a demotion: nobody is promoted without being asked for
	Base              uint64 // of a force: the generation up to which this replica and the in-sync set are the same; 0: nothing tells
	Promised          uint64 // of a force: by the proposer, durably
	Reason            string
}
