package replication

import (
	"context"
	"fmt"
	"strings"
)

// Explanation says why this node treats each peer as it does or, on a Secondary, what becomes of its own replica.
type Explanation struct {
	Resource, Node, Role string
	Generation           uint64
	Primary              string // as recorded; "" for none
	InSync               []string

	Peers []PeerExplanation // on the Primary

	Standing string // on a Secondary: what the record says of its replica
	Source   string // and who brings it up to date
}

// PeerExplanation is a source decision with everything that led to it.
type PeerExplanation struct {
	Peer       string
	Generation uint64 // of the record that it was made from; 0: none was made
	Facts      []Fact
	Rules      []TriedRule // in order; the first that holds counts, and ends the list
	Result     string
	Reason     string
}

// Fact is one thing that a decision looked at, and who said so: the record, the peer, or this node.
type Fact struct{ Of, Name, Value string }

// madeDecision is what a session began with.
type madeDecision struct {
	facts    sourceFacts
	decision sourceDecision
}

// Explain tells why this node does what it does with each peer. The decisions are those that were made, from what was so
// then: to ask again would show what they have changed since.
func (r *Resource) Explain(ctx context.Context) (Explanation, error) {
	var e Explanation
	err := r.call(ctx, func() { e = r.explain() })
	return e, err
}

func (r *Resource) explain() Explanation {
	conf := r.learned
	e := Explanation{Resource: r.name, Node: r.cfg.Node, Role: r.role(), Generation: conf.Generation, Primary: conf.Primary,
		InSync: append([]string{}, conf.InSync...)}
	if !r.serving {
		l := r.links[conf.Primary]
		e.Standing = standingOf(&conf, r.cfg.Node, r.diskState())
		e.Source = sourceOf(&conf, r.cfg.Node, r.diskState(), l != nil && l.session != nil)
		return e
	}
	for _, replica := range conf.Replicas {
		if l := r.links[replica.Node]; l != nil {
			e.Peers = append(e.Peers, l.explain())
		}
	}
	return e
}

func (l *link) explain() PeerExplanation {
	p := PeerExplanation{Peer: l.node}
	switch {
	case l.session == nil:
		p.Result, p.Reason = "not connected", l.reason
	case l.decided == nil:
		p.Result, p.Reason = "connected", "nothing was decided yet"
	default:
		f, d := &l.decided.facts, &l.decided.decision
		p.Generation, p.Facts, p.Rules, p.Result, p.Reason = f.configuration.Generation, f.list(), d.tried, d.what(), d.reason
	}
	return p
}

// what names the result for people.
func (d *sourceDecision) what() string {
	switch {
	case d.action == actionNone:
		return "nothing for now"
	case d.action == actionJoin:
		return "gets every write, nothing to copy"
	case d.action == actionBitmap && d.supersedes:
		return "resync of what this node's bitmap has"
	case d.action == actionBitmap:
		return "resync of what either bitmap has"
	}
	return d.action.String()
}

// list is the facts for people, in the order of who says so.
func (f *sourceFacts) list() []Fact {
	conf := f.configuration
	facts := []Fact{
		{"record", "generation", fmt.Sprint(conf.Generation)},
		{"record", "size", fmt.Sprintf("%d bytes", conf.SizeBytes)},
		{"record", "in the in-sync set", yesNo(conf.inSync(f.peer.From))},
	}
	if replica := f.replica(); replica != nil {
		facts = append(facts, Fact{"record", "came in last in generation", orNever(replica.AdmittedAt)},
			Fact{"record", "left in generation", orNever(replica.LeftAt)})
		if conf.ForcedAt != 0 {
			facts = append(facts, Fact{"record", "newest forced change in generation", fmt.Sprint(conf.ForcedAt)})
		}
		if fork := replica.Fork; fork.At != 0 {
			facts = append(facts, Fact{"record", "side of a split since generation", fmt.Sprint(fork.At)},
				Fact{"record", "both sides are the same up to generation", orNever(fork.Base)},
				Fact{"record", "given up in generation", orNever(replica.Discard.At)},
				Fact{"peer", "bitmap complete since generation", orNever(f.peer.CompleteSince)})
		}
	}
	return append(facts,
		Fact{"record", "machine restarted since it came in", yesNo(conf.restarted(f.peer.From, f.peer.BootID))},
		Fact{"peer", "disk", f.peer.DiskState},
		Fact{"peer", "size", fmt.Sprintf("%d bytes", f.peer.SizeBytes)},
		Fact{"peer", "new disk", yesNo(f.peer.JustCreated)},
		Fact{"peer", "promised generation", orNever(f.peer.Promised)},
		Fact{"peer", "knows of being in sync in generation", orNever(f.peer.LastInSync)},
		Fact{"peer", "blocks in its bitmap", fmt.Sprint(f.peer.DirtyBlocks)},
		Fact{"here", "in sync, with a disk", yesNo(f.selfInSync && !f.diskless)},
		Fact{"here", "knows every block that it may lack", yesNo(f.known)},
		Fact{"here", "bitmap complete since generation", orNever(f.completeSince())},
		Fact{"here", "blocks in the bitmap", fmt.Sprint(f.dirty)})
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orNever(generation uint64) string {
	if generation == 0 {
		return "never"
	}
	return fmt.Sprint(generation)
}

// standingOf is what the record, and the disk where it says otherwise, make of a Secondary's replica.
func standingOf(conf *Configuration, node, disk string) string {
	replica := conf.replica(node)
	var text string
	switch {
	case replica == nil:
		return "the record has no replica here"
	case conf.inSync(node):
		text = fmt.Sprintf("in the in-sync set since generation %d", replica.AdmittedAt)
	case replica.LeftAt == 0:
		text = "never was in the in-sync set"
	default:
		text = fmt.Sprintf("left the in-sync set in generation %d", replica.LeftAt)
	}
	switch {
	case conf.undecided(node):
		text += ", a side of a split since: nothing is copied to it"
	case replica.Discard.At != 0:
		text += fmt.Sprintf(", a side of a split that was given up in generation %d", replica.Discard.At)
	}
	switch disk {
	case "Inconsistent", "Failed", "Diskless":
		text += "; its disk is " + disk
	}
	return text
}

// sourceOf is who brings a Secondary's replica up to date. Only the Primary does, and it needs an in-sync disk for it.
func sourceOf(conf *Configuration, node, disk string, connected bool) string {
	primary := conf.Primary
	switch {
	case disk == "Failed" || disk == "Diskless":
		return "nobody: there is no usable disk here"
	case conf.undecided(node):
		return "nobody, until it is decided which side is kept: `duet split show " + conf.Resource + "`"
	case conf.inSync(node) && disk != "Inconsistent" && primary == "":
		return "nobody: there is nothing to copy; it gets every write once there is a Primary"
	case primary == node:
		return "nobody yet: this node is about to become Primary"
	case primary == "":
		return "whoever becomes Primary of those in sync: " + strings.Join(conf.InSync, ", ")
	case !connected:
		return primary + ", once it is connected"
	case conf.inSync(node) && disk == "Inconsistent":
		return primary + ", once this replica is out of the in-sync set"
	case conf.inSync(node):
		return "nobody: there is nothing to copy; it gets every write from " + primary
	case !conf.inSync(primary):
		return "nobody: the Primary, " + primary + ", has no in-sync disk"
	}
	return primary + ": `duet explain " + conf.Resource + "` there says how"
}
