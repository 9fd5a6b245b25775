package node

import (
	"fmt"
	"sort"

	"duet/nbd"
)

// exports are the resources as NBD clients see them.
type exports struct{ node *Node }

// Names lists the resources that have a replica here.
func (x exports) Names() []string {
	x.node.mu.Lock()
	defer x.node.mu.Unlock()
	var names []string
	for name := range x.node.resources {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Open serves a resource whose Primary this node is; the empty name means the only one.
func (x exports) Open(name string) (*nbd.Export, error) {
	if name == "" {
		if names := x.Names(); len(names) == 1 {
			name = names[0]
		}
	}
	x.node.mu.Lock()
	held := x.node.resources[trimVolume(name)]
	x.node.mu.Unlock()
	if held == nil || held.resource == nil {
		return nil, &nbd.Refused{Kind: nbd.RefusedUnknown, Message: fmt.Sprintf("there is no resource %q with a replica on %s", name, x.node.config.Name)}
	}
	revoked := held.revocation() // taken before the role is looked at: whoever loses it closes this one
	if !held.resource.Serving() {
		return nil, &nbd.Refused{Kind: nbd.RefusedPolicy, Message: x.node.whoServes(held.name)}
	}
	return &nbd.Export{Name: held.name, Description: "duet resource", Device: held.resource.Volume(), Revoked: revoked}, nil
}

// trimVolume accepts RESOURCE/0 for the only volume that there is.
func trimVolume(name string) string {
	if len(name) > 2 && name[len(name)-2:] == "/0" {
		return name[:len(name)-2]
	}
	return name
}

// whoServes says where a client should go.
func (n *Node) whoServes(resource string) string {
	r := n.quorum.State().Resources[resource]
	switch {
	case r == nil || r.Primary == "":
		return fmt.Sprintf("resource %s has no Primary; run duet primary %s on an in-sync node", resource, resource)
	case r.Primary == n.config.Name:
		return fmt.Sprintf("resource %s: this node was Primary and has restarted; run duet primary %s", resource, resource)
	}
	return fmt.Sprintf("resource %s is Secondary on %s; %s is Primary, at %s", resource, n.config.Name, r.Primary,
		n.quorum.State().Nodes[r.Primary].NBDAddress)
}
