package quorum

import (
	"cmp"
	"maps"
	"slices"
)

// tokenMemory is how long an expired token is remembered, in seconds, so that its late use gets the true reason.
const tokenMemory = 24 * 60 * 60

func (c InitCluster) apply(s *State) (string, error) {
	if s.ClusterID != "" {
		if s.ClusterID == c.ClusterID && s.Nodes[c.Node].Kind == c.Kind {
			return "", nil
		}
		return "", refusef("this cluster is %s already", s.ClusterID)
	}
	if c.ClusterID == "" {
		return "", refusef("the cluster id is empty")
	}
	if err := bounded("cluster id", c.ClusterID, maxID); err != nil {
		return "", err
	}
	s.ClusterID = c.ClusterID
	return "", s.putNode(c.Node, NodeRecord{Address: c.Address, Kind: c.Kind, Pending: true})
}

// apply guards against a node directory restored from a backup: such a node has forgotten what it promised and voted
// for, and it shows by an incarnation that is not above the registered one. The only exception is the same process
// that repeats its registration because it never got the answer.
func (c RegisterNode) apply(s *State) (string, error) {
	n, found := s.Nodes[c.Node]
	switch {
	case !found:
		return "", refusef("%s is not a node of this cluster; it has to join with a token", quoted(c.Node))
	case c.Incarnation == 0:
		return "", refusef("incarnation 0")
	case c.BootID == "" || c.RunID == "":
		return "", refusef("%s registers without a boot id or a run id", c.Node)
	case len(c.BootID) > maxID || len(c.RunID) > maxID:
		return "", refusef("a boot id or run id of %s is longer than %d bytes", c.Node, maxID)
	case c.Incarnation == n.Incarnation && c.RunID == n.RunID && c.BootID == n.BootID:
		// A repeat. Only the addresses are taken over.
	case c.Incarnation <= n.Incarnation:
		return "", refusef("%s registers as incarnation %d, but %d is registered: its directory was restored from a backup, "+
			"or copied; it has to join again", c.Node, c.Incarnation, n.Incarnation)
	}
	n.Incarnation, n.RunID, n.BootID = c.Incarnation, c.RunID, c.BootID
	n.Address, n.NBDAddress = c.Address, c.NBDAddress
	n.Pending = false
	return "", s.putNode(c.Node, n)
}

func (c AddToken) apply(s *State) (string, error) {
	maps.DeleteFunc(s.Tokens, func(_ string, t Token) bool { return t.Expires < c.Now-tokenMemory })
	switch _, found := s.Tokens[c.ID]; {
	case c.ID == "" || len(c.ID) > maxID:
		return "", refusef("a token id has 1 to %d bytes", maxID)
	case found:
		return "", refusef("token %s exists already", c.ID)
	case c.Expires <= c.Now:
		return "", refusef("token %s would have expired already", c.ID)
	case len(s.Tokens) >= maxTokens:
		return "", refusef("there are %d tokens; wait until some have expired", len(s.Tokens))
	}
	s.Tokens[c.ID] = Token{Expires: c.Expires}
	return "", nil
}

// apply uses up the token and adds the node in one step, so that a token makes one node and no more. A node that
// joins under a name the cluster knows has lost its directory and with it its promises, so it may not be in sync
// anywhere; its incarnations start again.
func (c JoinNode) apply(s *State) (string, error) {
	t, found := s.Tokens[c.Token]
	switch {
	case !found:
		return "", refusef("the token is unknown; it may have expired long ago")
	case t.UsedBy != "":
		return "", refusef("the token was used already, by %s", t.UsedBy)
	case c.Now >= t.Expires:
		return "", refusef("the token has expired")
	}
	if err := s.mayJoinAs(c.Node, c.Kind); err != nil {
		return "", err
	}
	t.UsedBy = c.Node
	s.Tokens[c.Token] = t
	return "", s.putNode(c.Node, NodeRecord{Address: c.Address, NBDAddress: c.NBDAddress, Kind: c.Kind, Pending: true})
}

func (s *State) mayJoinAs(node string, kind Kind) error {
	for _, r := range s.sortedResources() {
		switch {
		case r.Primary == node:
			return refusef("%s is the Primary of %s; a node that lost its directory can't take its place", node, r.Name)
		case r.IsInSync(node):
			return refusef("%s is recorded in sync for %s; that has to end before it joins again", node, r.Name)
		case kind == Witness && r.replica(node) != nil:
			return refusef("%s has a replica of %s and can't become a witness", node, r.Name)
		}
	}
	return nil
}

// putNode stores a node after checking what every node has to satisfy.
func (s *State) putNode(name string, n NodeRecord) error {
	if err := validName("node", name); err != nil {
		return err
	}
	if n.Kind != Data && n.Kind != Witness {
		return refusef("node %s is of unknown kind %s", name, quoted(string(n.Kind)))
	}
	if n.Address == "" || len(n.Address) > maxAddress || len(n.NBDAddress) > maxAddress {
		return refusef("node %s needs an address of 1 to %d bytes", name, maxAddress)
	}
	for other, o := range s.Nodes {
		if other != name && o.Address == n.Address {
			return refusef("address %s is the one of node %s", n.Address, other)
		}
	}
	if _, known := s.Nodes[name]; !known && len(s.Nodes) >= maxNodes {
		return refusef("the cluster has %d nodes, and no more are allowed", maxNodes)
	}
	s.Nodes[name] = n
	return nil
}

// sortedResources gives the resources in an order that is the same on every node: map order would let two nodes
// report different reasons for the same command.
func (s *State) sortedResources() []*Resource {
	return slices.SortedFunc(maps.Values(s.Resources), func(a, b *Resource) int { return cmp.Compare(a.Name, b.Name) })
}
