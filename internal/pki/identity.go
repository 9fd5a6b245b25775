package pki

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
)

// Kind is what the holder of a certificate may do; the package documentation has
// the table.
type Kind string

// The kinds, as they stand in a certificate's organizational unit.
const (
	KindData    Kind = "duet-node"
	KindWitness Kind = "duet-witness"
	KindJoin    Kind = "duet-join"
	KindClient  Kind = "duet-client"
)

// IsNode tells whether the holder is a member of the cluster.
func (k Kind) IsNode() bool { return k == KindData || k == KindWitness }

// Identity is who a certificate belongs to.
type Identity struct {
	Name string
	Kind Kind
}

// String says both, for messages.
func (i Identity) String() string { return fmt.Sprintf("%q (%s)", i.Name, i.Kind) }

// maxNameBytes bounds names in certificates; node names are shorter still.
const maxNameBytes = 64

// IdentityOf reads a certificate whose chain has been checked.
func IdentityOf(certificate *x509.Certificate) (Identity, error) {
	units, name := certificate.Subject.OrganizationalUnit, certificate.Subject.CommonName
	if len(units) != 1 {
		return Identity{}, fmt.Errorf("%w: it has %d organizational units", ErrWrongKind, len(units))
	}
	if err := checkName(name); err != nil {
		return Identity{}, err
	}
	kind := Kind(units[0])
	if !slices.Contains([]Kind{KindData, KindWitness, KindJoin, KindClient}, kind) {
		return Identity{}, fmt.Errorf("%w: kind %.40q is unknown", ErrWrongKind, kind)
	}
	return Identity{Name: name, Kind: kind}, nil
}

// checkName keeps out what would be dangerous in a log line, a file name or a
// protocol line. What makes a good node name is package config's business.
func checkName(name string) error {
	if name == "" || len(name) > maxNameBytes {
		return fmt.Errorf("a name in a certificate has 1 to %d characters, not %d", maxNameBytes, len(name))
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return fmt.Errorf("name %q can't stand in a certificate", name)
	}
	return nil
}

// admit checks the kind against those that may be here.
func (i Identity) admit(kinds []Kind) error {
	if slices.Contains(kinds, i.Kind) {
		return nil
	}
	return fmt.Errorf("%w: it is that of %s", ErrWrongKind, i)
}
