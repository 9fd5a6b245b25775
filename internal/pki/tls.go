package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// maxChain bounds the certificates that are looked at: ours have two.
const maxChain = 4

// ServerConfig is for the cluster port: TLS 1.3, and only holders of a node's or
// a join certificate of this cluster. What each of them may do there is decided
// by its identity, channel by channel.
func ServerConfig(c *Credentials) (*tls.Config, error) {
	return serverConfig(c, tls.VersionTLS13, []Kind{KindData, KindWitness, KindJoin})
}

// NBDServerConfig is for the NBD port: only holders of a client certificate of
// this cluster. TLS 1.2 is allowed for the sake of older GnuTLS clients.
func NBDServerConfig(c *Credentials) (*tls.Config, error) {
	return serverConfig(c, tls.VersionTLS12, []Kind{KindClient})
}

func serverConfig(c *Credentials, minVersion uint16, kinds []Kind) (*tls.Config, error) {
	if !c.identity.Kind.IsNode() {
		return nil, fmt.Errorf("a server can't use the certificate of %s", c.identity)
	}
	return &tls.Config{
		MinVersion:   minVersion,
		Certificates: []tls.Certificate{c.certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    c.roots,
		// A resumed session would carry an old verdict on the client along.
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := identify(state, kinds)
			return err
		},
	}, nil
}

// ClientConfig is for dialing a node of this cluster. The node that answers must
// be expectedNode; "" accepts any node, for first contact by address alone.
func ClientConfig(c *Credentials, expectedNode string) (*tls.Config, error) {
	if !c.identity.Kind.IsNode() {
		return nil, fmt.Errorf("a node can't dial with the certificate of %s", c.identity)
	}
	config := dialConfig(c.certificate)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if err := verifyServer(state, c.roots); err != nil {
			return err
		}
		return expect(state, expectedNode)
	}
	return config, nil
}

// dialConfig leaves the check of the server to VerifyConnection, which its
// callers set: the standard one knows hosts, and we know nodes.
func dialConfig(certificate tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{certificate},
		InsecureSkipVerify: true, // host names are not checked; the chain and the node's name are, in VerifyConnection
	}
}

// verifyServer checks the chain of a server.
func verifyServer(state tls.ConnectionState, roots *x509.CertPool) error {
	if n := len(state.PeerCertificates); n == 0 || n > maxChain {
		return fmt.Errorf("the server shows %d certificates", n)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots:     roots,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

// expect checks that the server is a node, and the one meant.
func expect(state tls.ConnectionState, node string) error {
	identity, err := identify(state, []Kind{KindData, KindWitness})
	if err != nil {
		return err
	}
	if node != "" && identity.Name != node {
		return fmt.Errorf("%w: it is %q, not %q", ErrOtherNode, identity.Name, node)
	}
	return nil
}

// JoinClientConfig is for dialing a member with a token. The server's CA is not
// known yet: it must be among the certificates shown, and have the fingerprint
// that the token carries.
func JoinClientConfig(t *Token) *tls.Config {
	config := dialConfig(t.certificate)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		authority := findAuthority(state.PeerCertificates, t.Fingerprint)
		if authority == nil {
			return fmt.Errorf("%w than the join token", ErrOtherCluster)
		}
		if err := verifyServer(state, poolOf(authority)); err != nil {
			return err
		}
		return expect(state, "")
	}
	return config
}

func findAuthority(chain []*x509.Certificate, fingerprint Fingerprint) *x509.Certificate {
	for _, certificate := range chain[:min(len(chain), maxChain)] {
		if sum := sha256.Sum256(certificate.Raw); certificate.IsCA && bytes.Equal(sum[:], fingerprint[:]) {
			return certificate
		}
	}
	return nil
}

// PeerIdentity returns who is at the other end of a connection whose handshake
// is done.
func PeerIdentity(state tls.ConnectionState) (Identity, error) {
	if !state.HandshakeComplete {
		return Identity{}, errors.New("the TLS handshake is not done")
	}
	return identify(state, []Kind{KindData, KindWitness, KindJoin, KindClient})
}

// identify reads the certificate of the other end, whose chain is checked
// elsewhere.
func identify(state tls.ConnectionState, kinds []Kind) (Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return Identity{}, errors.New("there is no certificate")
	}
	identity, err := IdentityOf(state.PeerCertificates[0])
	if err != nil {
		return Identity{}, err
	}
	return identity, identity.admit(kinds)
}
