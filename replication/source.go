package replication

import "fmt"

// action is what a Primary does with a peer's session.
type action uint8

const (
	actionNone   action = iota // connected, nothing to do
	actionJoin                 // the peer is in sync and equal: it gets every write
	actionBitmap               // resync of the blocks whose bits are set on either side
	actionFull                 // resync of every block
	actionRefuse               // not admissible: the peer's data is left alone
	actionSplit                // a side of a split: the operator decides which one is kept
)

// String names the action for events.
func (a action) String() string {
	return [...]string{"Connected", "Established", "bitmap resync", "full resync", "refused", splitBrain}[a]
}

// sourceFacts is everything that the decision looks at.
type sourceFacts struct {
	configuration *Configuration
	selfInSync    bool
	diskless      bool
	local         Superblock
	peer          hello
	slot          int
	known         bool   // this Primary knows every block that the peer may lack
	dirty         uint64 // how many that are, by this node's bitmap
}

// completeSince is the generation since which this node's bitmap has every block that the peer may lack; 0: never.
func (f *sourceFacts) completeSince() uint64 {
	if f.slot < 0 || f.slot >= len(f.local.Peers) || f.local.Peers[f.slot].Name != f.peer.From {
		return 0
	}
	return f.local.Peers[f.slot].CompleteSince
}

// growsNow reports whether the peer's disk is smaller just because the peer has not promised this configuration yet: it grows, or
// fails, before it takes anything else of the session.
func (f *sourceFacts) growsNow() bool {
	return f.peer.SizeBytes < f.configuration.SizeBytes && f.peer.Promised < f.configuration.Generation
}

// replica is the peer's; a rule behind the first may ask for it.
func (f *sourceFacts) replica() *Replica { return f.configuration.replica(f.peer.From) }

// forkCovered reports whether the two bitmaps together have every block in which the sides of a split differ. The forced
// side changed nothing between the base and the fork; the other one may have gone on since the base.
func (f *sourceFacts) forkCovered() bool {
	fork := f.replica().Fork
	return fork.Peer == f.configuration.Primary && fork.Covered(f.peer.CompleteSince, f.completeSince())
}

// sourceDecision is the result with the rules that were tried; the last of them gave it.
type sourceDecision struct {
	action     action
	supersedes bool // with actionBitmap: this node's bitmap has all that the peer's has, which need not be sent
	reason     string
	tried      []TriedRule
}

// TriedRule is one question of the source decision with its answer.
type TriedRule struct {
	Question string
	Yes      bool
}

// sourceRule is one line of the table: if it holds, its action is the result.
type sourceRule struct {
	question   string
	action     action
	supersedes bool
	holds      func(f *sourceFacts) bool
	reason     func(f *sourceFacts) string
}

// decideSource decides from the committed record what a serving Primary does with a peer that has connected. Data flows
// from the in-sync set to all others, never the other way; a bitmap is trusted only when it covers the whole gap.
func decideSource(f sourceFacts) sourceDecision {
	var d sourceDecision
	for _, rules := range [][]sourceRule{admissionRules(), extentRules()} {
		for i := range rules {
			rule := &rules[i]
			yes := rule.holds(&f)
			d.tried = append(d.tried, TriedRule{rule.question, yes})
			if yes {
				d.action, d.supersedes, d.reason = rule.action, rule.supersedes, rule.reason(&f)
				return d
			}
		}
	}
	d.reason = "no rule fits"
	return d
}

// always is the reason that depends on nothing.
func always(text string) func(*sourceFacts) string { return func(*sourceFacts) string { return text } }

// admissionRules say which peers get anything at all, and which get writes only.
func admissionRules() []sourceRule {
	return []sourceRule{
		{question: "does the record have no replica of it?", action: actionRefuse,
			holds:  func(f *sourceFacts) bool { return f.replica() == nil },
			reason: func(f *sourceFacts) string { return f.peer.From + " holds no replica" }},
		{question: "has its disk another size?", action: actionRefuse,
			holds: func(f *sourceFacts) bool {
				return f.peer.SizeBytes != 0 && f.peer.SizeBytes != f.configuration.SizeBytes && !f.growsNow()
			},
			reason: func(f *sourceFacts) string {
				return fmt.Sprintf("its disk has %d bytes, the resource %d", f.peer.SizeBytes, f.configuration.SizeBytes)
			}},
		{question: "has it no usable disk?", action: actionNone,
			holds:  func(f *sourceFacts) bool { return f.peer.DiskState == "Diskless" || f.peer.DiskState == "Failed" },
			reason: func(f *sourceFacts) string { return "its disk is " + f.peer.DiskState }},
		{question: "has it promised a generation above the record's?", action: actionRefuse,
			holds: func(f *sourceFacts) bool { return f.peer.Promised > f.configuration.Generation },
			reason: func(f *sourceFacts) string {
				return fmt.Sprintf("it has promised generation %d, the record is at %d", f.peer.Promised, f.configuration.Generation)
			}},
		{question: "is it in the in-sync set, but says that its data can't be trusted?", action: actionNone,
			holds:  func(f *sourceFacts) bool { return f.configuration.inSync(f.peer.From) && f.peer.unusable() },
			reason: always("its data can't be trusted; it leaves the in-sync set first")},
		{question: "is it in the in-sync set, but its machine restarted since it came in?", action: actionNone,
			holds:  func(f *sourceFacts) bool { return f.configuration.restarted(f.peer.From, f.peer.BootID) },
			reason: always("its machine restarted since it became a member; it leaves the in-sync set first")},
		{question: "is it in the in-sync set?", action: actionJoin,
			holds:  func(f *sourceFacts) bool { return f.configuration.inSync(f.peer.From) },
			reason: always("in sync since the orderly end of the last Primary")},
		{question: "is it a side of a split that nobody has decided about?", action: actionSplit,
			holds: func(f *sourceFacts) bool { return f.configuration.undecided(f.peer.From) },
			reason: func(f *sourceFacts) string {
				return splitReason(f.configuration, f.peer.From) + ": duet split show " + f.configuration.Resource
			}},
		{question: "does it say that nothing can be copied to it for now?", action: actionNone,
			holds:  func(f *sourceFacts) bool { return f.peer.NotTarget != "" },
			reason: func(f *sourceFacts) string { return reasonText(f.peer.NotTarget) }},
		{question: "has this node no in-sync disk?", action: actionNone,
			holds:  func(f *sourceFacts) bool { return f.diskless || !f.selfInSync },
			reason: always("this node has no in-sync disk to copy from")},
	}
}

// extentRules choose between a full resync and one by bitmap.
func extentRules() []sourceRule {
	return []sourceRule{
		{question: "is its disk new?", action: actionFull,
			holds:  func(f *sourceFacts) bool { return f.peer.JustCreated },
			reason: always("its disk is new")},
		{question: "was it never in sync, and nothing copied to it by this Primary?", action: actionFull,
			holds:  func(f *sourceFacts) bool { return f.replica().LeftAt == 0 && !f.known },
			reason: always("it was never in sync")},
		{question: "does its metadata not know that it was in sync?", action: actionFull,
			holds:  func(f *sourceFacts) bool { return f.replica().LeftAt != 0 && f.peer.LastInSync == 0 },
			reason: always("its metadata does not know that it was in sync")},
		{question: "does this Primary know every block that it may lack, and has it no more of them itself?", action: actionBitmap, supersedes: true,
			holds:  func(f *sourceFacts) bool { return f.known && f.peer.DirtyBlocks <= f.dirty },
			reason: always("this Primary knows every block that it may lack")},
		{question: "does this Primary know every block that it may lack?", action: actionBitmap,
			holds:  func(f *sourceFacts) bool { return f.known },
			reason: always("this Primary knows every block that it may lack, except for those that it lost itself")},
		{question: "were its data given up, and do both bitmaps have all that the two sides changed?", action: actionBitmap,
			holds: func(f *sourceFacts) bool { return f.replica().Discard.At != 0 && f.forkCovered() },
			reason: func(f *sourceFacts) string {
				return fmt.Sprintf("its side of the split was given up in generation %d, and both bitmaps are complete", f.replica().Discard.At)
			}},
		{question: "was a replica forced since it came in?", action: actionFull,
			holds: func(f *sourceFacts) bool { return f.configuration.ForcedAt > f.replica().AdmittedAt },
			reason: func(f *sourceFacts) string {
				return fmt.Sprintf("a replica was forced in generation %d, and no bitmap tells what the two had in common", f.configuration.ForcedAt)
			}},
		{question: "does this node's bitmap not reach back to when it left?", action: actionFull,
			holds: func(f *sourceFacts) bool { since := f.completeSince(); return since == 0 || since > f.replica().LeftAt },
			reason: func(f *sourceFacts) string {
				return fmt.Sprintf("the bitmap is complete since generation %d, it left in %d", f.completeSince(), f.replica().LeftAt)
			}},
		{question: "does it reach back?", action: actionBitmap,
			holds: func(f *sourceFacts) bool {
				since := f.completeSince()
				return since != 0 && since <= f.replica().LeftAt
			},
			reason: func(f *sourceFacts) string {
				return fmt.Sprintf("the bitmap is complete since generation %d", f.completeSince())
			}},
	}
}
