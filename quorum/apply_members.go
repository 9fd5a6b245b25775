package quorum

import (
	"cmp"
	"slices"
)

// RemoveNode forgets a node and its replicas. Generations has an entry for each resource that the node has a replica
// of, and no other. GiveUp allows that one of them is a side of a split that nobody has decided about.
type RemoveNode struct {
	Node        string            `json:"node"`
	Generations map[string]uint64 `json:"generations"`
	Reason      string            `json:"reason"`
	GiveUp      bool              `json:"give_up,omitempty"`
	Now         int64             `json:"now,omitempty"` // Unix seconds by the proposer's clock, for the history
}

// AddReplica gives a resource one more replica, on a disk that the process Incarnation of Node has prepared. It is not in sync.
type AddReplica struct {
	Resource    string `json:"resource"`
	Generation  uint64 `json:"generation"`
	Incarnation uint64 `json:"incarnation"`
	NewReplica
	Now int64 `json:"now,omitempty"` // Unix seconds by the proposer's clock, for the history
}

// RemoveReplica takes a replica out of a resource for good. GiveUp allows one that is a side of a split that nobody has decided about.
type RemoveReplica struct {
	Resource   string `json:"resource"`
	Generation uint64 `json:"generation"`
	Node       string `json:"node"`
	GiveUp     bool   `json:"give_up,omitempty"`
	Reason     string `json:"reason"`
	Now        int64  `json:"now,omitempty"` // Unix seconds by the proposer's clock, for the history
}

// EditResource changes policies; nil leaves one as it is.
type EditResource struct {
	Resource      string     `json:"resource"`
	Generation    uint64     `json:"generation"`
	Promotion     *Promotion `json:"promotion,omitempty"`
	Preferred     *string    `json:"preferred,omitempty"`
	OnIOError     *string    `json:"on_io_error,omitempty"`
	DiskTimeoutMS *int64     `json:"disk_timeout_ms,omitempty"`
	Reason        string     `json:"reason"`
	Now           int64      `json:"now,omitempty"` // Unix seconds by the proposer's clock, for the history
}

// apply drops the node's replicas too. Shrinking a set is safe while a member stays that has every acknowledged write.
func (c RemoveNode) apply(s *State) (string, error) {
	if err := s.mayRemoveNode(c.Node); err != nil {
		return "", err
	}
	holding := 0
	for _, r := range s.sortedResources() {
		if r.replica(c.Node) == nil {
			continue
		}
		holding++
		generation, named := c.Generations[r.Name]
		if !named {
			return r.Name, stalef("%s has a replica of %s, which the command does not name", c.Node, r.Name)
		}
		drop := RemoveReplica{Resource: r.Name, Generation: generation, Node: c.Node, GiveUp: c.GiveUp, Reason: c.Reason, Now: c.Now}
		if err := drop.from(s, c.kind()); err != nil {
			return r.Name, err
		}
	}
	if holding != len(c.Generations) {
		return "", stalef("%s has %d replicas, the command names %d", c.Node, holding, len(c.Generations))
	}
	delete(s.Nodes, c.Node)
	return "", nil
}

// mayRemoveNode says why the cluster can't do without a node, whatever replicas it has.
func (s *State) mayRemoveNode(node string) error {
	n, found := s.Nodes[node]
	switch {
	case !found:
		return refusef("%s is not a node of this cluster", quoted(node))
	case len(s.Nodes) == 1:
		return refusef("%s is the last node", node)
	case n.Kind == Data && s.dataNodes() == 1:
		return refusef("%s is the last data node; a witness alone can admit nobody", node)
	}
	return nil
}

func (s *State) dataNodes() (count int) {
	for _, n := range s.Nodes {
		if n.Kind == Data {
			count++
		}
	}
	return count
}

func (c RemoveReplica) apply(s *State) (string, error) { return c.Resource, c.from(s, c.kind()) }

// from takes the replica out, as a change of the given kind.
func (c RemoveReplica) from(s *State, kind string) error {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return err
	}
	switch p := r.replica(c.Node); {
	case p == nil:
		return refusef("%s has no replica of %s", quoted(c.Node), r.Name)
	case r.Primary == c.Node:
		return refusef("%s is the Primary of %s", c.Node, r.Name)
	case len(r.InSync) == 1 && r.IsInSync(c.Node):
		return refusef("%s has the last in-sync replica of %s", c.Node, r.Name)
	case r.loneMemory(s, c.Node):
		return refusef("%s may have acknowledged writes of %s that all others have lost: their machines restarted; if it is gone for good, "+
			"force one of them first", c.Node, r.Name)
	case p.Fork.At != 0 && p.Discard.At == 0 && !c.GiveUp:
		return refusef("%s is a side of a split of %s since generation %d, and nobody decided to give its data up", c.Node, r.Name, p.Fork.At)
	}
	r.leave(c.Node, r.Generation+1)
	r.Replicas = slices.DeleteFunc(r.Replicas, func(p Replica) bool { return p.Node == c.Node })
	for i := range r.Replicas { // a later replica of this name is not the one that the split was measured by
		if p := &r.Replicas[i]; p.Fork.Peer == c.Node {
			p.Fork.Base = 0
		}
	}
	if r.Preferred == c.Node {
		r.Preferred = ""
	}
	r.advance(kind, reasonAbout(c.Node, c.Reason))
	r.stamp(c.Now)
	return nil
}

// loneMemory reports whether node is the only member of the set whose machine still is the boot that was admitted: then it
// has what was acknowledged and not flushed, and nobody else.
func (r *Resource) loneMemory(s *State, node string) bool {
	if r.AckDurable || r.Clean || !r.IsInSync(node) || !r.keptCache(s, node) {
		return false
	}
	return !slices.ContainsFunc(r.InSync, func(other string) bool { return other != node && r.keptCache(s, other) })
}

func (c AddReplica) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	if err := c.validate(s, r); err != nil {
		return c.Resource, err
	}
	r.Replicas = append(r.Replicas, Replica{Node: c.Node, Slot: c.Slot, Path: c.Path, Metadata: c.Metadata, AddedAt: r.Generation + 1})
	slices.SortFunc(r.Replicas, func(a, b Replica) int { return cmp.Compare(a.Slot, b.Slot) })
	r.advance(c.kind(), reasonAbout(c.Node, "on "+c.Path))
	r.stamp(c.Now)
	return c.Resource, nil
}

func (c AddReplica) validate(s *State, r *Resource) error {
	if err := s.current(c.Node, c.Incarnation); err != nil {
		return err
	}
	switch {
	case s.Nodes[c.Node].Kind != Data:
		return refusef("%s is a witness and holds no data", c.Node)
	case r.replica(c.Node) != nil:
		return refusef("%s has a replica of %s already", c.Node, r.Name)
	case len(r.Replicas) >= maxReplicas:
		return refusef("%s has %d replicas, and no more are allowed", r.Name, maxReplicas)
	case c.Slot < 0 || c.Slot >= maxReplicas:
		return refusef("slot %d of %s is not in 0..%d", c.Slot, c.Node, maxReplicas-1)
	case c.Path == "" || len(c.Path) > maxPath || len(c.Metadata) > maxPath:
		return refusef("the replica of %s needs a path, and no path may be longer than %d bytes", c.Node, maxPath)
	}
	for _, p := range r.Replicas {
		if p.Slot == c.Slot {
			return refusef("slot %d is the one of %s", c.Slot, p.Node)
		}
	}
	return nil
}

// FreeSlot is the lowest bitmap slot that no replica has; -1 if there is none.
func (r *Resource) FreeSlot() int {
	for slot := range maxReplicas {
		if !slices.ContainsFunc(r.Replicas, func(p Replica) bool { return p.Slot == slot }) {
			return slot
		}
	}
	return -1
}

func (c EditResource) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	before := policies{r.Promotion, r.Preferred, r.DiskPolicy}
	take(&r.Promotion, c.Promotion)
	take(&r.Preferred, c.Preferred)
	take(&r.OnIOError, c.OnIOError)
	take(&r.DiskTimeoutMS, c.DiskTimeoutMS)
	switch after := (policies{r.Promotion, r.Preferred, r.DiskPolicy}); {
	case after == before:
		return c.Resource, refusef("that changes nothing of %s", r.Name)
	case r.Promotion != PromotionAuto && r.Promotion != PromotionManual:
		return c.Resource, refusef("promotion policy %s is neither auto nor manual", quoted(string(r.Promotion)))
	case r.Preferred != "" && r.replica(r.Preferred) == nil:
		return c.Resource, refusef("the preferred node %s has no replica", quoted(r.Preferred))
	}
	if err := r.validate(); err != nil {
		return c.Resource, err
	}
	r.advance(c.kind(), c.Reason)
	r.stamp(c.Now)
	return c.Resource, nil
}

// policies is what EditResource can change.
type policies struct {
	promotion Promotion
	preferred string
	disk      DiskPolicy
}

// take sets a value that was given.
func take[V any](into *V, from *V) {
	if from != nil {
		*into = *from
	}
}
