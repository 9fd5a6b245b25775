package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
)

var (
	// ErrNoToken is returned for a text that isn't a join token at all.
	ErrNoToken = errors.New("this is not a join token: one begins with " + tokenPrefix)
	// ErrMistyped is returned for a token that isn't as it was printed.
	ErrMistyped = errors.New("the join token is mistyped or cut off: its checksum does not match; copy it again, whole")
	// ErrTokenExpired is returned for a token whose time is over.
	ErrTokenExpired = errors.New("the join token has expired; make a new one with `duet token` on a member")
	// ErrOtherCluster is returned when the other end shows a certificate
	// that this cluster's CA didn't issue.
	ErrOtherCluster = errors.New("its certificate is of another cluster")
	// ErrWrongKind is returned when a certificate is of this cluster, but its
	// kind has no business here.
	ErrWrongKind = errors.New("its certificate is not meant for this")
	// ErrOtherNode is returned when another node answers than the one meant.
	ErrOtherNode = errors.New("another node answers there")
	// ErrNoTLS is returned when the other end doesn't speak TLS.
	ErrNoTLS = errors.New("it does not speak TLS; perhaps it runs with --insecure")
	// ErrRefusedByPeer is returned when the other end ended the handshake.
	ErrRefusedByPeer = errors.New("it refuses this node's certificate")
)

// Explain puts the error of a TLS handshake, or of the first read after it, into
// words an operator can act on. In TLS 1.3 a server's refusal of the client's
// certificate arrives with the first read. Errors it knows nothing better for
// are returned as they are.
func Explain(err error) error {
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &authority):
		return fmt.Errorf("%w (%w)", ErrOtherCluster, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("its certificate is not valid now; compare the clocks of both machines (%w)", err)
	case strings.Contains(err.Error(), "first record does not look like a TLS handshake"):
		return fmt.Errorf("%w (%w)", ErrNoTLS, err)
	}
	return explainAlert(err)
}

// explainAlert translates what the other end sent before it hung up. The TLS
// package has no exported type for that, so that the texts count; a test holds
// them against the real thing.
func explainAlert(err error) error {
	var operation *net.OpError
	if !errors.As(err, &operation) || operation.Op != "remote error" {
		return err
	}
	text := operation.Err.Error()
	for alert, reason := range map[string]string{
		"unknown certificate authority": "it belongs to another cluster",
		"expired certificate":           "it has expired, or the clocks of the machines differ",
		"certificate required":          "there is none",
		"bad certificate":               "it is not meant for this",
	} {
		if strings.Contains(text, alert) {
			return fmt.Errorf("%w: %s (%w)", ErrRefusedByPeer, reason, err)
		}
	}
	return err
}
