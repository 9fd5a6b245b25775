package quorum

// apply is rule R10. The set stays, as by a promotion from clean, and nobody is fenced: the former Primary has nothing that the
// others lack. Boot ids stay as they are, so that a member whose machine restarted meanwhile is still found out.
func (c Switch) apply(s *State) (string, error) {
	r, err := s.edit(c.Resource, c.Generation)
	if err != nil {
		return c.Resource, err
	}
	if err := r.servedBy(c.Node, c.Incarnation); err != nil {
		return c.Resource, err
	}
	if err := s.current(c.Target, c.TargetInc); err != nil {
		return c.Resource, err
	}
	switch {
	case c.Target == c.Node:
		return c.Resource, refusef("%s is Primary already", c.Target)
	case !r.IsInSync(c.Target):
		return c.Resource, refusef("%s is not in sync; %v is", c.Target, r.InSync)
	case !r.AckDurable && !r.keptCache(s, c.Target):
		return c.Resource, refusef("the machine of %s restarted and may have lost acknowledged writes", c.Target)
	}
	r.Primary, r.PrimaryIncarnation = c.Target, c.TargetInc
	r.PrimarySince = r.Generation + 1
	r.Hold = false
	r.advance(c.kind(), c.Reason)
	r.stamp(c.Now)
	return c.Resource, nil
}
