package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// maxPEMBytes bounds every PEM text that is parsed: the largest, a certificate
// with all hosts, has a few KiB.
const maxPEMBytes = 64 << 10

// The labels of the PEM blocks in use.
const (
	labelCertificate = "CERTIFICATE"
	labelKey         = "PRIVATE KEY"
	labelRequest     = "CERTIFICATE REQUEST"
)

// NewRequest makes a key and the request (PEM) for a certificate for it. The key
// (PEM) stays where it was made.
func NewRequest() (csr, keyPEM []byte, err error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate request: %w", err)
	}
	keyPEM, err = encodeKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: labelRequest, Bytes: der}), keyPEM, nil
}

// parseRequest returns the key of a request whose own signature is right, which
// proves that the asker has the private half.
func parseRequest(csr []byte) (*ecdsa.PublicKey, error) {
	der, err := decode(csr, labelRequest)
	if err != nil {
		return nil, err
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	key, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("certificate request: its key is not ECDSA P-256")
	}
	return key, nil
}

func parseCertificate(text []byte) (*x509.Certificate, error) {
	der, err := decode(text, labelCertificate)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	der, err := decode(text, labelKey)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	ecdsaKey, ok := key.(*ecdsa.PrivateKey)
	if !ok || ecdsaKey.Curve != elliptic.P256() {
		return nil, errors.New("it is not an ECDSA P-256 key")
	}
	return ecdsaKey, nil
}

// decode returns the content of the one block that text must consist of.
func decode(text []byte, label string) ([]byte, error) {
	if len(text) > maxPEMBytes {
		return nil, fmt.Errorf("PEM text of %d bytes is too long", len(text))
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != label {
		return nil, fmt.Errorf("a PEM block %q is expected", label)
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, fmt.Errorf("there is a second PEM block after %q", label)
	}
	return block.Bytes, nil
}

func encodeCertificate(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: labelCertificate, Bytes: certificate.Raw})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: labelKey, Bytes: der}), nil
}
