package quorum

// Bounds of a resource's size; the metadata of a replica can't speak of more.
const (
	maxSizeBytes  = 1 << 50
	sizeUnitBytes = 4096
)

// apply commits what every replica has prepared. Where the new parts of the disks may differ, the Primary is all that is in sync
// then: it has it right by definition, and the others are resynced there.
func (c GrowResource) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	if err := c.validate(s, r); err != nil {
		return c.Resource, err
	}
	r.GrownApart = !c.Equal && len(r.Replicas) > 1
	if r.GrownApart {
		for _, p := range r.Replicas {
			if p.Node != r.Primary {
				r.leave(p.Node, r.Generation+1)
			}
		}
	}
	r.SizeBytes = c.SizeBytes
	r.advance(c.kind(), c.Reason)
	return c.Resource, nil
}

// validate says why the resource can't have this size now.
func (c GrowResource) validate(s *State, r *Resource) error {
	switch {
	case c.SizeBytes <= r.SizeBytes:
		return refusef("%s has %d bytes and can't become smaller; %d were asked for", r.Name, r.SizeBytes, c.SizeBytes)
	case c.SizeBytes > maxSizeBytes || c.SizeBytes%sizeUnitBytes != 0:
		return refusef("the size of %d bytes is above %d, or no multiple of %d", c.SizeBytes, uint64(maxSizeBytes), sizeUnitBytes)
	case len(c.Prepared) != len(r.Replicas):
		return refusef("%d replicas of %s have made room, and it has %d", len(c.Prepared), r.Name, len(r.Replicas))
	}
	for _, p := range r.Replicas {
		incarnation, prepared := c.Prepared[p.Node]
		if !prepared {
			return refusef("%s has not made room", p.Node)
		}
		if err := s.current(p.Node, incarnation); err != nil {
			return err
		}
		if !r.IsInSync(p.Node) {
			return refusef("%s is not in sync; all replicas have to be", p.Node)
		}
	}
	if !c.Equal && len(r.Replicas) > 1 && !s.Serves(r) {
		return refusef("the disks may differ in what is new, and there is no Primary whose copy counts")
	}
	return nil
}
