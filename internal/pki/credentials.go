package pki

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// Credentials are what a node proves itself and checks others with: its
// certificate and key, and the cluster's CA certificate.
type Credentials struct {
	identity    Identity
	certificate tls.Certificate // the chain holds the CA too, for who joins
	authority   *x509.Certificate
	roots       *x509.CertPool
}

// ParseCredentials reads a node's or client's credentials from three PEM texts
// and checks that they belong together.
func ParseCredentials(caPEM, certificatePEM, keyPEM []byte) (*Credentials, error) {
	authority, err := parseCertificate(caPEM)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	certificate, err := parseCertificate(certificatePEM)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, errors.New("key: it does not belong to the certificate")
	}
	if err := certificate.CheckSignatureFrom(authority); err != nil {
		return nil, fmt.Errorf("certificate: %w", ErrOtherCluster)
	}
	identity, err := IdentityOf(certificate)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	chain := tls.Certificate{Certificate: [][]byte{certificate.Raw, authority.Raw}, PrivateKey: key, Leaf: certificate}
	return &Credentials{identity: identity, certificate: chain, authority: authority, roots: poolOf(authority)}, nil
}

// Identity returns whose credentials these are.
func (c *Credentials) Identity() Identity { return c.identity }

// ClusterID returns the id of the cluster they are good for.
func (c *Credentials) ClusterID() string { return c.authority.Subject.CommonName }

// Fingerprint returns the fingerprint of the cluster's CA.
func (c *Credentials) Fingerprint() Fingerprint { return sha256.Sum256(c.authority.Raw) }

func poolOf(authority *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	return pool
}
