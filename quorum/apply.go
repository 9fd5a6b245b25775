package quorum

import "fmt"

// Result is what became of a command.
type Result struct {
	// Index is the command's place in the Raft log.
	Index uint64 `json:"index"`
	// Version is State.Version as the command left it.
	Version uint64 `json:"version"`
	// Resource is the record of the resource that the command names, as the command left it: also after ErrStale and
	// ErrRefused, when it left it as it was. It is nil when there is no such resource. History holds only its newest
	// entry; State has all of it.
	Resource *Resource `json:"resource,omitempty"`
}

// outcome is what the state machine says about a command, beside the State it leads to.
type outcome struct {
	Code   code
	Reason string
	Result Result
}

// apply is the whole state machine: what is agreed on and the next command give what is agreed on next. It is pure.
// A command that its guard refuses leaves the very same State.
func apply(s *State, c Command) (*State, outcome) {
	next := s.clone()
	name, err := c.apply(next)
	if err != nil {
		return s, outcomeOf(s, name, err)
	}
	if _, nothing := c.(mark); nothing {
		return s, outcomeOf(s, "", nil)
	}
	next.Version++
	return next, outcomeOf(next, name, nil)
}

func outcomeOf(s *State, resource string, err error) outcome {
	return outcome{
		Code:   codeOf(err),
		Reason: Reason(err),
		Result: Result{Version: s.Version, Resource: s.Resources[resource].brief()},
	}
}

func (mark) apply(*State) (string, error) { return "", nil }

// edit returns a private copy of a resource, put in place of the shared one, if its generation is the expected one.
// This is the compare of every compare-and-set.
func (s *State) edit(name string, generation uint64) (*Resource, error) {
	shared, found := s.Resources[name]
	switch {
	case !found:
		return nil, refusef("there is no resource %q", name)
	case shared.Generation != generation:
		return nil, stalef("resource %s is at generation %d, the command was made for %d", name, shared.Generation, generation)
	}
	r := shared.clone()
	s.Resources[name] = r
	return r, nil
}

// current reports why incarnation is not the one that node runs as; nil if it is.
func (s *State) current(node string, incarnation uint64) error {
	n, found := s.Nodes[node]
	switch {
	case !found:
		return refusef("%s is not a node of this cluster", node)
	case n.Incarnation == 0 || n.Incarnation != incarnation:
		return refusef("%s runs as incarnation %d, not %d", node, n.Incarnation, incarnation)
	}
	return nil
}

// validName reports what is wrong with a name of the given sort. Names are used in paths and certificates.
func validName(sort, name string) error {
	if name == "" || len(name) > maxName {
		return refusef("%s name %s has to have 1 to %d characters", sort, quoted(name), maxName)
	}
	for i, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '-' && c != '_' && c != '.') {
			return refusef("%s name %s: letters, digits, and after the first also - _ . are allowed", sort, quoted(name))
		}
	}
	return nil
}

// quoted shows a name in a message without repeating all of an absurdly long one.
func quoted(name string) string {
	if len(name) > maxName {
		return fmt.Sprintf("%q...", name[:maxName])
	}
	return fmt.Sprintf("%q", name)
}

// bounded reports a text that is longer than what the record keeps.
func bounded(what, text string, limit int) error {
	if len(text) > limit {
		return refusef("the %s has %d bytes, at most %d are allowed", what, len(text), limit)
	}
	return nil
}
