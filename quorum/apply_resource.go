package quorum

import (
	"cmp"
	"slices"
)

func (c CreateResource) apply(s *State) (string, error) {
	if err := c.validate(s); err != nil {
		return c.Name, err
	}
	r := &Resource{
		Name: c.Name, ID: c.ID, SizeBytes: c.SizeBytes,
		Clean:     true,
		Promotion: c.Promotion, Preferred: c.Preferred, AckDurable: c.AckDurable, JustCreated: c.JustCreated,
		DiskPolicy: c.DiskPolicy,
	}
	for _, n := range c.Replicas {
		r.Replicas = append(r.Replicas, Replica{Node: n.Node, Slot: n.Slot, Path: n.Path, Metadata: n.Metadata})
	}
	slices.SortFunc(r.Replicas, func(a, b Replica) int { return cmp.Compare(a.Slot, b.Slot) })
	for _, node := range c.InSync {
		r.admit(node, s.Nodes[node].BootID, 1)
	}
	r.advance(c.kind(), c.ground())
	s.Resources[c.Name] = r
	return c.Name, nil
}

// ground is what history says about why the replicas of the initial set are taken to be equal.
func (c CreateResource) ground() string {
	switch {
	case c.JustCreated:
		return "disks just created"
	case c.AssumeClean:
		return "assumed equal by the operator"
	default:
		return ""
	}
}

func (c CreateResource) validate(s *State) error {
	if err := validName("resource", c.Name); err != nil {
		return err
	}
	switch _, taken := s.Resources[c.Name]; {
	case taken:
		return refusef("resource %s exists already", c.Name)
	case len(s.Resources) >= maxResources:
		return refusef("there are %d resources, and no more are allowed", maxResources)
	case c.ID == ResourceID{}:
		return refusef("resource %s has no id", c.Name)
	case c.SizeBytes == 0:
		return refusef("resource %s has no size", c.Name)
	case c.Promotion != PromotionAuto && c.Promotion != PromotionManual:
		return refusef("promotion policy %s is neither auto nor manual", quoted(string(c.Promotion)))
	case len(c.Replicas) == 0 || len(c.Replicas) > maxReplicas:
		return refusef("resource %s needs 1 to %d replicas, not %d", c.Name, maxReplicas, len(c.Replicas))
	}
	for _, r := range s.Resources {
		if r.ID == c.ID {
			return refusef("id %s is the one of resource %s", c.ID, r.Name)
		}
	}
	if err := c.DiskPolicy.validate(); err != nil {
		return err
	}
	nodes, err := c.validateReplicas(s)
	if err != nil {
		return err
	}
	return c.validateSets(nodes)
}

// validateReplicas returns the nodes that get a replica.
func (c CreateResource) validateReplicas(s *State) (map[string]bool, error) {
	nodes, slots := map[string]bool{}, map[int]bool{}
	for _, p := range c.Replicas {
		n, known := s.Nodes[p.Node]
		switch {
		case !known:
			return nil, refusef("%s is not a node of this cluster", quoted(p.Node))
		case n.Kind != Data:
			return nil, refusef("%s is a witness and holds no data", p.Node)
		case n.Incarnation == 0:
			return nil, refusef("%s has joined but never run", p.Node)
		case nodes[p.Node]:
			return nil, refusef("%s is named twice", p.Node)
		case p.Slot < 0 || p.Slot >= maxReplicas:
			return nil, refusef("slot %d of %s is not in 0..%d", p.Slot, p.Node, maxReplicas-1)
		case slots[p.Slot]:
			return nil, refusef("slot %d is given twice", p.Slot)
		case p.Path == "" || len(p.Path) > maxPath || len(p.Metadata) > maxPath:
			return nil, refusef("the replica of %s needs a path, and no path may be longer than %d bytes", p.Node, maxPath)
		}
		nodes[p.Node], slots[p.Slot] = true, true
	}
	return nodes, nil
}

func (c CreateResource) validateSets(nodes map[string]bool) error {
	if len(c.InSync) == 0 {
		return refusef("the initial in-sync set of %s is empty", c.Name)
	}
	if len(c.InSync) > 1 && !c.JustCreated && !c.AssumeClean {
		return refusef("nothing says that the disks %v are equal, so only one of them can be in sync", c.InSync)
	}
	seen := map[string]bool{}
	for _, node := range c.InSync {
		if !nodes[node] || seen[node] {
			return refusef("the in-sync set %v is not a set of nodes with a replica", c.InSync)
		}
		seen[node] = true
	}
	if c.Preferred != "" && !nodes[c.Preferred] {
		return refusef("the preferred node %s has no replica", quoted(c.Preferred))
	}
	return nil
}

func (c DeleteResource) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	if s.Serves(r) {
		return c.Resource, refusef("%s is the Primary of %s", r.Primary, r.Name)
	}
	delete(s.Resources, c.Resource)
	return c.Resource, nil
}

// apply is rules R6 and R9, and the part of R3 that concerns reboots.
func (c Promote) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	if c.Auto && r.Hold {
		return c.Resource, refusef("the operator holds %s without a Primary", r.Name)
	}
	loss, err := r.promotable(s, c.Node, c.Incarnation)
	if err != nil {
		return c.Resource, err
	}
	kind := c.kind()
	if r.Primary == c.Node {
		kind = "reacquire"
	}
	if loss {
		r.LossCount++
	}
	// From clean the replicas are equal and the set may stay. Otherwise each replica may hold other unacknowledged
	// writes, and the new Primary's version is the one that counts.
	if !r.Clean && !sabotageKeepSet {
		r.narrowTo(c.Node)
	}
	for _, name := range r.InSync {
		r.replica(name).AdmittedBoot = s.Nodes[name].BootID
	}
	r.Primary, r.PrimaryIncarnation = c.Node, c.Incarnation
	r.Clean, r.Hold = false, false
	r.PrimarySince = r.Generation + 1
	r.advance(kind, c.Reason)
	r.stamp(c.Now)
	return c.Resource, nil
}

// promotable says why node may not become Primary. loss means it may, but acknowledged writes that were not flushed
// may be lost.
func (r *Resource) promotable(s *State, node string, incarnation uint64) (loss bool, err error) {
	if err := s.current(node, incarnation); err != nil {
		return false, err
	}
	p := r.replica(node)
	switch {
	case p == nil:
		return false, refusef("%s has no replica of %s", node, r.Name)
	case r.Primary == node && r.PrimaryIncarnation == incarnation:
		return false, refusef("%s is Primary already", node)
	case p.Fenced:
		return false, refusef("%s is fenced since generation %d", node, p.FencedAt)
	case !r.IsInSync(node) && !sabotagePromoteOutsider:
		return false, refusef("%s is not in sync; %v is", node, r.InSync)
	}
	return r.fit(s, node)
}

// fit decides whether an in-sync replica still holds every acknowledged write although its machine may have
// restarted since it was admitted, which empties the page cache. If every member's machine restarted, what was
// flushed is on all of them and nobody has more: then the set stands, and loss is reported.
func (r *Resource) fit(s *State, node string) (loss bool, err error) {
	if r.AckDurable || r.Clean || sabotageIgnoreBoot || r.keptCache(s, node) {
		return false, nil
	}
	for _, other := range r.InSync {
		if r.keptCache(s, other) {
			return false, refusef("the machine of %s restarted and may have lost acknowledged writes that %s has", node, other)
		}
	}
	return true, nil
}

// keptCache reports whether node's machine is still the boot that was admitted.
func (r *Resource) keptCache(s *State, node string) bool {
	return r.replica(node).AdmittedBoot == s.Nodes[node].BootID
}

// narrowTo makes node the whole in-sync set as of the next generation and fences the Primary it takes over from.
func (r *Resource) narrowTo(node string) {
	next := r.Generation + 1
	for _, other := range slices.Clone(r.InSync) {
		if other != node {
			r.leave(other, next)
		}
	}
	if p := r.replica(r.Primary); p != nil && r.Primary != node {
		p.Fenced, p.FencedAt = true, next
	}
}

func (c Demote) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	if err := r.servedBy(c.Node, c.Incarnation); err != nil {
		return c.Resource, err
	}
	r.Primary, r.PrimaryIncarnation = "", 0
	r.Clean, r.Hold = c.Clean, c.Hold
	r.advance(c.kind(), c.Reason)
	return c.Resource, nil
}

// servedBy says why a process is not the Primary: the role belongs to an incarnation, not to a node.
func (r *Resource) servedBy(node string, incarnation uint64) error {
	switch {
	case r.Primary == "":
		return refusef("%s has no Primary", r.Name)
	case r.Primary != node || r.PrimaryIncarnation != incarnation:
		return refusef("the Primary of %s is %s in incarnation %d, not %s in incarnation %d",
			r.Name, r.Primary, r.PrimaryIncarnation, node, incarnation)
	}
	return nil
}

// apply is rule R4, and the part of R5 that kills a late AddInSync.
func (c RemoveInSync) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	if err := r.servedBy(c.Proposer, c.ProposerInc); err != nil {
		return c.Resource, err
	}
	switch {
	case r.replica(c.Target) == nil:
		return c.Resource, refusef("%s has no replica of %s", quoted(c.Target), r.Name)
	case c.Target == c.Proposer:
		return c.Resource, refusef("a Primary leaves the in-sync set by detaching")
	case len(r.InSync) == 1 && r.IsInSync(c.Target):
		return c.Resource, refusef("%s has the last in-sync replica of %s", c.Target, r.Name)
	}
	if r.IsInSync(c.Target) {
		r.leave(c.Target, r.Generation+1)
	}
	r.advance(c.kind(), reasonAbout(c.Target, c.Reason))
	r.stamp(c.Now)
	return c.Resource, nil
}

// apply is the commit of rule R5.
func (c AddInSync) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	if err := r.servedBy(c.Proposer, c.ProposerInc); err != nil {
		return c.Resource, err
	}
	if err := s.current(c.Target, c.TargetInc); err != nil {
		return c.Resource, err
	}
	p := r.replica(c.Target)
	switch {
	case p == nil:
		return c.Resource, refusef("%s has no replica of %s", c.Target, r.Name)
	case r.IsInSync(c.Target):
		return c.Resource, refusef("%s is in sync already", c.Target)
	case c.TargetPromised > r.Generation:
		return c.Resource, refusef("%s can't have promised generation %d, the record is at %d", c.Target, c.TargetPromised, r.Generation)
	case p.Fork.At != 0 && p.Discard.At == 0:
		return c.Resource, refusef("%s is a side of a split since generation %d, and nobody decided to give its data up", c.Target, p.Fork.At)
	case p.Fenced && c.TargetPromised < p.FencedAt:
		return c.Resource, refusef("%s was fenced at generation %d and has promised only %d", c.Target, p.FencedAt, c.TargetPromised)
	}
	r.admit(c.Target, s.Nodes[c.Target].BootID, r.Generation+1)
	p.Promised = c.TargetPromised
	r.advance(c.kind(), reasonAbout(c.Target, c.Reason))
	return c.Resource, nil
}

// apply is the commit of rule R11.
func (c Detach) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	if err := r.servedBy(c.Proposer, c.ProposerInc); err != nil {
		return c.Resource, err
	}
	switch {
	case !r.IsInSync(c.Proposer):
		return c.Resource, refusef("%s is not in sync, there is nothing to detach from", c.Proposer)
	case len(r.InSync) == 1:
		return c.Resource, refusef("%s has the last in-sync replica of %s", c.Proposer, r.Name)
	}
	r.leave(c.Proposer, r.Generation+1)
	r.advance(c.kind(), c.Reason)
	r.stamp(c.Now)
	return c.Resource, nil
}

func (c ReplaceDisk) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	if err := s.current(c.Node, c.Incarnation); err != nil {
		return c.Resource, err
	}
	p := r.replica(c.Node)
	switch {
	case p == nil:
		return c.Resource, refusef("%s has no replica of %s", c.Node, r.Name)
	case r.IsInSync(c.Node):
		return c.Resource, refusef("the replica of %s is in sync; it has to leave the set first", c.Node)
	case p.Fork.At != 0 && p.Discard.At == 0:
		return c.Resource, refusef("%s is a side of a split since generation %d, and nobody decided to give its data up", c.Node, p.Fork.At)
	case c.Path == "" || len(c.Path) > maxPath || len(c.Metadata) > maxPath:
		return c.Resource, refusef("the replica of %s needs a path, and no path may be longer than %d bytes", c.Node, maxPath)
	}
	p.Path, p.Metadata = c.Path, c.Metadata
	// The generation in which it left is now: whatever a Primary knows of the disk before says nothing of this one.
	p.LeftAt, p.AdmittedAt, p.AdmittedBoot, p.Promised = r.Generation+1, 0, "", 0
	p.Fork, p.Discard = Fork{}, Discard{} // what was to be saved is on the former disk, where nothing overwrites it any more
	r.advance(c.kind(), reasonAbout(c.Node, "on "+c.Path))
	r.stamp(c.Now)
	return c.Resource, nil
}

// reasonAbout names the replica in the reason that history keeps.
func reasonAbout(target, reason string) string {
	if reason == "" {
		return target
	}
	return target + ": " + reason
}
