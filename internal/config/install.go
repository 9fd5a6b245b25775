package config

import (
	"duet/internal/pki"
)

// Membership is what makes a directory that of a node.
type Membership struct {
	Node      *Node
	Authority *pki.CA // nil: a witness has none
	Identity  Identity
	// Incarnation is the number that the cluster remembers of an earlier node of this name; 0 if there was none.
	Incarnation uint64
	// Recovery is how often the quorum of the cluster was rebuilt.
	Recovery uint64
}

// Install writes all that a node's directory needs, durably. node.yaml comes last, when the rest is durable: a crash
// leaves a directory that is not a node's, which may be installed again, or all of it.
func (d Dir) Install(m Membership) error { return d.install(osFiles{}, m) }

func (d Dir) install(on files, m Membership) error {
	if m.Authority != nil {
		if err := d.saveAuthority(on, m.Authority); err != nil {
			return err
		}
	}
	if err := d.saveIdentity(on, m.Identity); err != nil {
		return err
	}
	if err := d.raiseIncarnation(on, m.Incarnation); err != nil {
		return err
	}
	if err := d.saveRecovery(on, m.Recovery); err != nil {
		return err
	}
	return d.saveNode(on, m.Node)
}
