package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

const (
	// authorityLife is longer than any cluster is meant to live: a CA that
	// expired would cut all nodes off at once.
	authorityLife = 30 * 365 * 24 * time.Hour
	// nodeLife is how long a node's certificate is valid.
	nodeLife = 10 * 365 * 24 * time.Hour
	// clockSlack is how far a certificate's validity begins in the past, so
	// that a machine whose clock is behind can still use it at once.
	clockSlack = 24 * time.Hour
	// maxHosts bounds the names and addresses in a node's certificate.
	maxHosts = 32
	// maxClientLife bounds what a client certificate may be asked for.
	maxClientLife = nodeLife
)

// Fingerprint is the SHA-256 of a CA certificate.
type Fingerprint [sha256.Size]byte

// String returns it in hexadecimal.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// CA is the authority of a cluster: its certificate and its key. Data nodes hold
// it, so that each can admit others.
type CA struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	now         func() time.Time
}

// NewCA makes the authority of a new cluster.
func NewCA(clusterID string) (*CA, error) {
	if err := checkName(clusterID); err != nil {
		return nil, fmt.Errorf("new CA: %w", err)
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	ca := &CA{key: key, now: time.Now}
	template, err := ca.template(pkix.Name{CommonName: clusterID, Organization: []string{"duet"}}, authorityLife)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign
	ca.certificate = template
	ca.certificate, err = ca.sign(template, &key.PublicKey)
	if err != nil {
		return nil, err
	}
	return ca, nil
}

// ParseCA reads an authority from its two PEM texts.
func ParseCA(certificatePEM, keyPEM []byte) (*CA, error) {
	certificate, err := parseCertificate(certificatePEM)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("CA key: %w", err)
	}
	if !certificate.IsCA {
		return nil, errors.New("CA certificate: it is not that of an authority")
	}
	if !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, errors.New("CA key: it does not belong to the CA certificate")
	}
	return &CA{certificate: certificate, key: key, now: time.Now}, nil
}

// ClusterID returns the id of the cluster the authority was made for.
func (ca *CA) ClusterID() string { return ca.certificate.Subject.CommonName }

// Fingerprint returns the fingerprint of the authority's certificate.
func (ca *CA) Fingerprint() Fingerprint { return sha256.Sum256(ca.certificate.Raw) }

// CertificatePEM returns the authority's certificate, which is no secret.
func (ca *CA) CertificatePEM() []byte { return encodeCertificate(ca.certificate) }

// KeyPEM returns the authority's key. Whoever has it is the cluster.
func (ca *CA) KeyPEM() ([]byte, error) { return encodeKey(ca.key) }

// NodeRequest says what a node's certificate is to be. The name and kind come
// from here, never from the signing request that a stranger wrote.
type NodeRequest struct {
	Name  string
	Kind  Kind     // KindData or KindWitness
	Hosts []string // names and addresses the node is reached by, besides its name and localhost
}

// IssueNode makes a node's certificate for the key that csr (PEM, as NewRequest
// makes it) proves possession of. It returns the certificate as PEM.
func (ca *CA) IssueNode(csr []byte, request NodeRequest) ([]byte, error) {
	if !request.Kind.IsNode() {
		return nil, fmt.Errorf("certificate for %q: %q is no kind of node", request.Name, request.Kind)
	}
	publicKey, err := parseRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("certificate for %q: %w", request.Name, err)
	}
	template, err := ca.leaf(Identity{request.Name, request.Kind}, nodeLife)
	if err != nil {
		return nil, fmt.Errorf("certificate for %q: %w", request.Name, err)
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if err := addHosts(template, request); err != nil {
		return nil, fmt.Errorf("certificate for %q: %w", request.Name, err)
	}
	certificate, err := ca.sign(template, publicKey)
	if err != nil {
		return nil, fmt.Errorf("certificate for %q: %w", request.Name, err)
	}
	return encodeCertificate(certificate), nil
}

// addHosts enters what clients that check host names need: NBD clients do.
func addHosts(template *x509.Certificate, request NodeRequest) error {
	if len(request.Hosts) > maxHosts {
		return fmt.Errorf("%d hosts; at most %d are allowed", len(request.Hosts), maxHosts)
	}
	seen := map[string]bool{"": true}
	for _, host := range append([]string{request.Name, "localhost", "127.0.0.1", "::1"}, request.Hosts...) {
		if seen[host] {
			continue
		}
		seen[host] = true
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		if len(host) > 253 || checkName(host[:min(len(host), maxNameBytes)]) != nil {
			return fmt.Errorf("host %.60q is neither an IP address nor a host name", host)
		}
		template.DNSNames = append(template.DNSNames, host)
	}
	return nil
}

// IssueClient makes a certificate and key for an NBD client. It returns both as
// PEM; the key is kept nowhere else.
func (ca *CA) IssueClient(name string, life time.Duration) (certificatePEM, keyPEM []byte, err error) {
	if life > maxClientLife {
		return nil, nil, fmt.Errorf("client certificate for %q: %s is longer than the %s allowed", name, life, maxClientLife)
	}
	certificate, key, err := ca.issueClientSide(Identity{name, KindClient}, life)
	if err != nil {
		return nil, nil, fmt.Errorf("client certificate for %q: %w", name, err)
	}
	keyPEM, err = encodeKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("client certificate for %q: %w", name, err)
	}
	return encodeCertificate(certificate), keyPEM, nil
}

// issueClientSide makes a key and a certificate that is good for dialing only.
func (ca *CA) issueClientSide(holder Identity, life time.Duration) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	if life <= 0 {
		return nil, nil, fmt.Errorf("a validity of %s is none", life)
	}
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	template, err := ca.leaf(holder, life)
	if err != nil {
		return nil, nil, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	certificate, err := ca.sign(template, &key.PublicKey)
	return certificate, key, err
}

// leaf is what all certificates but the authority's own have in common.
func (ca *CA) leaf(holder Identity, life time.Duration) (*x509.Certificate, error) {
	if err := checkName(holder.Name); err != nil {
		return nil, err
	}
	template, err := ca.template(pkix.Name{CommonName: holder.Name, OrganizationalUnit: []string{string(holder.Kind)}}, life)
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return template, nil
}

func (ca *CA) template(subject pkix.Name, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("random number: %w", err)
	}
	now := ca.now()
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: now.Add(-clockSlack), NotAfter: now.Add(life)}, nil
}

func (ca *CA) sign(template *x509.Certificate, publicKey *ecdsa.PublicKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, publicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return x509.ParseCertificate(der)
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("new key: %w", err)
	}
	return key, nil
}
