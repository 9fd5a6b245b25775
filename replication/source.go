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
)

// String names the action for events.
func (a action) String() string {
	return [...]string{"Connected", "Established", "bitmap resync", "full resync", "refused"}[a]
}

// sourceFacts is everything that the decision looks at.
type sourceFacts struct {
	configuration *Configuration
	self          string
	selfInSync    bool
	diskless      bool
	local         Superblock
	peer          hello
	slot          int
	known         bool
}

// sourceDecision is the result with the rule that gave it.
type sourceDecision struct {
	action action
	reason string
}

// decideSource decides from the committed record what a serving Primary does with a peer that has connected. Data flows
// from the in-sync set to all others, never the other way; a bitmap is trusted only when it covers the whole gap.
func decideSource(f sourceFacts) sourceDecision {
	conf := f.configuration
	replica := conf.replica(f.peer.From)
	switch {
	case replica == nil:
		return sourceDecision{actionRefuse, f.peer.From + " holds no replica"}
	case f.peer.SizeBytes != 0 && f.peer.SizeBytes != conf.SizeBytes:
		return sourceDecision{actionRefuse, fmt.Sprintf("its disk has %d bytes, the resource %d", f.peer.SizeBytes, conf.SizeBytes)}
	case f.peer.DiskState == "Diskless" || f.peer.DiskState == "Failed":
		return sourceDecision{actionNone, "its disk is " + f.peer.DiskState}
	case f.peer.Promised > conf.Generation:
		return sourceDecision{actionRefuse, fmt.Sprintf("it has promised generation %d, the record is at %d", f.peer.Promised, conf.Generation)}
	case conf.inSync(f.peer.From) && f.peer.unusable():
		return sourceDecision{actionNone, "its data can't be trusted; it leaves the in-sync set first"}
	case conf.restarted(f.peer.From, f.peer.BootID):
		return sourceDecision{actionNone, "its machine restarted since it became a member; it leaves the in-sync set first"}
	case conf.inSync(f.peer.From):
		return sourceDecision{actionJoin, "in sync since the orderly end of the last Primary"}
	case f.diskless || !f.selfInSync:
		return sourceDecision{actionNone, "this node has no in-sync disk to copy from"}
	}
	return decideExtent(f, replica)
}

// decideExtent chooses between a resync by bitmap and a full one.
func decideExtent(f sourceFacts, replica *Replica) sourceDecision {
	since := f.local.Peers[f.slot].CompleteSince
	switch {
	case f.peer.JustCreated:
		return sourceDecision{actionFull, "its disk is new"}
	case replica.LeftAt == 0 && !f.known:
		return sourceDecision{actionFull, "it was never in sync"}
	case f.peer.LastInSync < replica.AdmittedAt && replica.LeftAt != 0 && f.peer.LastInSync+1 < replica.LeftAt && f.peer.LastInSync == 0:
		return sourceDecision{actionFull, "its metadata does not know that it was in sync"}
	case f.known:
		return sourceDecision{actionBitmap, "this Primary knows every block that it may lack"}
	case since == 0 || since > replica.LeftAt:
		return sourceDecision{actionFull, fmt.Sprintf("the bitmap is complete since generation %d, it left in %d", since, replica.LeftAt)}
	}
	return sourceDecision{actionBitmap, fmt.Sprintf("the bitmap is complete since generation %d", since)}
}
