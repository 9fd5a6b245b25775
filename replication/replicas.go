package replication

import (
	"errors"
	"fmt"
	"slices"
)

// errNoReplica ends the session of a peer whose replica the record has no more.
var errNoReplica = errors.New("its replica was removed from the resource")

// followReplicas keeps one link for each other replica of the adopted configuration. A replica that came into the record later
// is another one, whatever its name: what is known of the former says nothing of it. The new one gets its link when the
// former's session, and that of whoever had its slot, have ended.
func (r *Resource) followReplicas() {
	conf := &r.adopted
	if conf.Generation == 0 {
		return
	}
	for _, l := range r.links {
		if replica := conf.replica(l.node); replica == nil || replica.AddedAt != l.added {
			r.dropLink(l)
		}
	}
	for _, replica := range conf.Replicas {
		if replica.Node == r.cfg.Node || r.occupiedBy(replica) {
			continue
		}
		l := newLink(r, replica)
		r.links[replica.Node] = l
		r.emit("connection", l.node, "Connecting", fmt.Sprintf("it got a replica in generation %d", replica.AddedAt))
		if l.dials() {
			r.loops.Go(l.dialLoop)
		}
	}
}

// occupiedBy reports whether there is a link of the replica's node, or one in its slot.
func (r *Resource) occupiedBy(replica Replica) bool {
	for _, l := range r.links {
		if l.node == replica.Node || l.slot == replica.Slot {
			return true
		}
	}
	return false
}

// unlinked is an in-sync replica that has no link, "" if there is none: what was there before it has not ended yet.
func (r *Resource) unlinked() string {
	for _, replica := range r.adopted.Replicas {
		if l := r.links[replica.Node]; replica.Node != r.cfg.Node && r.adopted.inSync(replica.Node) && (l == nil || l.added != replica.AddedAt) {
			return replica.Node
		}
	}
	return ""
}

// dropLink takes one step towards the end of a link: its session ends first.
func (r *Resource) dropLink(l *link) {
	if !l.gone {
		l.gone = true
		l.replaceWaiting(nil)
	}
	l.lost, l.adding, l.resumes = false, false, false // nobody waits for it any more: the commit is adopted
	if l.session != nil {
		l.session.fail(errNoReplica)
		return
	}
	var cause error
	if !r.serving {
		cause = ErrFenced
	}
	l.releaseOrphans(cause)
	close(l.ended)
	delete(r.links, l.node)
	r.emit("connection", l.node, "StandAlone", errNoReplica.Error())
}

// holds says why this node can't act in a configuration: it has no replica in it.
func (c *Configuration) holds(node string) error {
	if !slices.ContainsFunc(c.Replicas, func(replica Replica) bool { return replica.Node == node }) {
		return fmt.Errorf("%w: generation %d has no replica of %s on %s", ErrRefused, c.Generation, c.Resource, node)
	}
	return nil
}
