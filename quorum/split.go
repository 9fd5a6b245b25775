package quorum

import (
	"slices"
	"strings"
)

// Force makes Node the Primary, and the whole in-sync set, although acknowledged writes may be lost: it is out of the set, or
// no promotion is possible for another reason. It is the operator's word against the record's.
type Force struct {
	Resource    string `json:"resource"`
	Generation  uint64 `json:"generation"`
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
	// Base is the generation in which Node left the set, if its own metadata know that it was in it until then; else 0.
	Base uint64 `json:"base,omitempty"`
	// Promised is the generation that Node has promised durably.
	Promised uint64 `json:"promised"`
	Now      int64  `json:"now,omitempty"` // Unix seconds by the proposer's clock, for the history
	Reason   string `json:"reason"`
}

// ResolveSplit decides which side of a split is kept. The replicas of the other are to become copies of it; what that
// overwrites is saved first, in the file Undo of each of their nodes.
type ResolveSplit struct {
	Resource   string `json:"resource"`
	Generation uint64 `json:"generation"`
	Keep       string `json:"keep"`
	Undo       string `json:"undo,omitempty"` // "" = in each node's directory
	// Fence takes the role from a Primary of the side that is given up, because nobody reaches it.
	Fence  bool   `json:"fence,omitempty"`
	Now    int64  `json:"now,omitempty"` // Unix seconds by the proposer's clock, for the history
	Reason string `json:"reason"`
}

// apply is rule R12. Every replica that was in sync, and is not any more, may have acknowledged writes that the new set
// lacks: its fork keeps them from being overwritten until the operator decides.
func (c Force) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	if err := c.validate(s, r); err != nil {
		return c.Resource, err
	}
	next, left := r.Generation+1, slices.Clone(r.InSync)
	r.narrowTo(c.Node)
	for _, other := range left {
		if other != c.Node {
			r.replica(other).Fork = Fork{At: next, Peer: c.Node, Base: c.Base}
		}
	}
	r.admit(c.Node, s.Nodes[c.Node].BootID, next)
	r.replica(c.Node).Promised = c.Promised
	r.Primary, r.PrimaryIncarnation, r.PrimarySince = c.Node, c.Incarnation, next
	r.Clean, r.Hold = false, false
	r.force(c.kind(), c.Reason)
	r.stamp(c.Now)
	return c.Resource, nil
}

func (c Force) validate(s *State, r *Resource) error {
	p := r.replica(c.Node)
	_, err := r.promotable(s, c.Node, c.Incarnation)
	switch {
	case err == nil:
		return refusef("%s can become Primary without force", c.Node)
	case s.current(c.Node, c.Incarnation) != nil || p == nil || r.Primary == c.Node && r.PrimaryIncarnation == c.Incarnation:
		return err
	case p.Fork.At != 0:
		return refusef("%s is the side of a split that was given up in generation %d: duet split resolve %s --keep %s", c.Node,
			p.Fork.At, r.Name, c.Node)
	case c.Promised > r.Generation:
		return refusef("%s can't have promised generation %d, the record is at %d", c.Node, c.Promised, r.Generation)
	case c.Base != 0 && (r.IsInSync(c.Node) || c.Base != p.LeftAt):
		return refusef("%s did not leave the in-sync set in generation %d", c.Node, c.Base)
	}
	return nil
}

// force closes a change that may lose acknowledged writes.
func (r *Resource) force(kind, reason string) {
	r.LossCount++
	r.advance(kind, reason)
	r.ForcedAt = r.Generation
	r.History[len(r.History)-1].Forced = true
}

func (c ResolveSplit) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	kept := r.replica(c.Keep)
	switch {
	case c.Undo != "" && (len(c.Undo) > maxPath || !strings.HasPrefix(c.Undo, "/")):
		return c.Resource, refusef("the path of the undo file must begin with / and have at most %d bytes", maxPath)
	case kept == nil:
		return c.Resource, refusef("%s has no replica of %s", quoted(c.Keep), r.Name)
	case r.IsInSync(c.Keep):
		err = c.keepSet(r)
	case kept.Fork.At == 0:
		err = refusef("%s is neither in sync nor a side of a split of %s", c.Keep, r.Name)
	default:
		err = c.keepFork(s, r, kept)
	}
	r.stamp(c.Now)
	return c.Resource, err
}

// keepSet gives up every fork.
func (c ResolveSplit) keepSet(r *Resource) error {
	decision, given := Discard{At: r.Generation + 1, Undo: c.Undo}, false
	for i := range r.Replicas {
		if p := &r.Replicas[i]; p.Fork.At != 0 && (p.Discard.At == 0 || p.Discard.Undo != c.Undo) {
			p.Discard, given = decision, true
		}
	}
	if !given {
		return refusef("there is no split of %s that is not resolved, or being resolved with this undo file", r.Name)
	}
	r.advance(c.kind(), "keep "+reasonAbout(c.Keep, c.Reason))
	return nil
}

// keepFork gives up the present set for a replica that was forked off. What was acknowledged since the force is what may be lost now.
func (c ResolveSplit) keepFork(s *State, r *Resource, kept *Replica) error {
	switch {
	case kept.Discard.At != 0:
		return refusef("generation %d has decided that the data of %s are overwritten; what they were is in its undo file", kept.Discard.At, c.Keep)
	case s.Serves(r) && !c.Fence:
		return refusef("%s is Primary of %s; it has to give its role up first: duet secondary %s", r.Primary, r.Name, r.Name)
	}
	next, fork, given := r.Generation+1, kept.Fork, slices.Clone(r.InSync)
	if p := r.replica(r.Primary); p != nil {
		p.Fenced, p.FencedAt = true, next
	}
	for _, node := range given {
		r.leave(node, next)
		p := r.replica(node)
		p.Fork, p.Discard = Fork{At: fork.At, Peer: c.Keep, Forced: true}, Discard{At: next, Undo: c.Undo}
		if node == fork.Peer {
			p.Fork.Base = fork.Base
		}
	}
	r.admit(c.Keep, s.Nodes[c.Keep].BootID, next)
	for i := range r.Replicas { // those that were forked off together have the same acknowledged writes
		if p := &r.Replicas[i]; p.Fork.At == fork.At && !p.Fork.Forced {
			p.Fork, p.Discard = Fork{}, Discard{}
		}
	}
	r.Primary, r.PrimaryIncarnation, r.Clean = "", 0, false
	r.force(c.kind(), "keep "+reasonAbout(c.Keep, c.Reason))
	return nil
}

// Forks is the replicas that were in sync when a forced change put others in their place.
func (r *Resource) Forks() []Replica {
	var forks []Replica
	for _, p := range r.Replicas {
		if p.Fork.At != 0 {
			forks = append(forks, p)
		}
	}
	return forks
}
