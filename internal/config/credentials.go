package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"duet/internal/pki"
)

// Names and modes of the files in DIR/tls. Keys are for this user alone.
const (
	caFile       = "ca.crt"
	caKeyFile    = "ca.key" // data nodes only
	nodeFile     = "node.crt"
	nodeKeyFile  = "node.key"
	publicMode   = fs.FileMode(0o644)
	secretMode   = fs.FileMode(0o600)
	maxTLSBytes  = 64 << 10
	othersAccess = fs.FileMode(0o077)
)

// ErrExposedKey is returned for a key file that others than its owner can read.
var ErrExposedKey = errors.New("others can read this key; if it may have been read, remove the node and join again, else chmod 600 it")

// Identity is the content of a node's credentials as PEM.
type Identity struct {
	CA          []byte // the cluster's CA certificate
	Certificate []byte // the node's
	Key         []byte // the node's
}

// SaveIdentity writes a node's credentials, durably, after checking that they
// belong together.
func (d Dir) SaveIdentity(identity Identity) error { return d.saveIdentity(osFiles{}, identity) }

func (d Dir) saveIdentity(on files, identity Identity) error {
	if _, err := pki.ParseCredentials(identity.CA, identity.Certificate, identity.Key); err != nil {
		return fmt.Errorf("directory %s: %w", d.TLS(), err)
	}
	return d.writeTLS(on, map[string][]byte{caFile: identity.CA, nodeFile: identity.Certificate, nodeKeyFile: identity.Key})
}

// SaveAuthority writes the cluster's CA with its key, durably.
func (d Dir) SaveAuthority(ca *pki.CA) error { return d.saveAuthority(osFiles{}, ca) }

func (d Dir) saveAuthority(on files, ca *pki.CA) error {
	key, err := ca.KeyPEM()
	if err != nil {
		return fmt.Errorf("directory %s: %w", d.TLS(), err)
	}
	return d.writeTLS(on, map[string][]byte{caFile: ca.CertificatePEM(), caKeyFile: key})
}

func (d Dir) writeTLS(on files, texts map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		mode := publicMode
		if filepath.Ext(name) == ".key" {
			mode = secretMode
		}
		if err := writeFile(on, filepath.Join(d.TLS(), name), texts[name], mode); err != nil {
			return err
		}
	}
	return nil
}

// LoadCredentials reads what the node proves itself with.
func (d Dir) LoadCredentials() (*pki.Credentials, error) {
	texts, err := d.readTLS(caFile, nodeFile, nodeKeyFile)
	if err != nil {
		return nil, err
	}
	credentials, err := pki.ParseCredentials(texts[0], texts[1], texts[2])
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", d.TLS(), err)
	}
	return credentials, nil
}

// LoadAuthority reads the cluster's CA. A witness has no key for it: the error
// is then fs.ErrNotExist.
func (d Dir) LoadAuthority() (*pki.CA, error) {
	texts, err := d.readTLS(caFile, caKeyFile)
	if err != nil {
		return nil, err
	}
	ca, err := pki.ParseCA(texts[0], texts[1])
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", d.TLS(), err)
	}
	return ca, nil
}

func (d Dir) readTLS(names ...string) ([][]byte, error) {
	texts := make([][]byte, 0, len(names))
	for _, name := range names {
		path := filepath.Join(d.TLS(), name)
		if filepath.Ext(name) == ".key" {
			if err := checkSecret(path); err != nil {
				return nil, err
			}
		}
		text, err := readBounded(path, maxTLSBytes)
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		texts = append(texts, text)
	}
	return texts, nil
}

func checkSecret(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	if info.Mode().Perm()&othersAccess != 0 {
		return fmt.Errorf("certificates: %s (mode %o): %w", path, info.Mode().Perm(), ErrExposedKey)
	}
	return nil
}
