package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"duet/internal/pki"
)

// newIdentity makes a cluster's authority and the credentials of node a.
func newIdentity(t *testing.T) (*pki.CA, Identity) {
	t.Helper()
	ca, err := pki.NewCA("c1")
	if err != nil {
		t.Fatal(err)
	}
	csr, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := ca.IssueNode(csr, pki.NodeRequest{Name: "a", Kind: pki.KindData})
	if err != nil {
		t.Fatal(err)
	}
	return ca, Identity{CA: ca.CertificatePEM(), Certificate: certificate, Key: key}
}

func newDir(t *testing.T) Dir {
	t.Helper()
	d := Dir(t.TempDir())
	if err := d.Create(); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestCredentials(t *testing.T) {
	d := newDir(t)
	_, err := d.LoadCredentials()
	wantError(t, err, fs.ErrNotExist, "ca.crt")
	ca, identity := newIdentity(t)
	if err := d.SaveIdentity(identity); err != nil {
		t.Fatal(err)
	}
	_, err = d.LoadAuthority()
	wantError(t, err, fs.ErrNotExist, "ca.key")
	if err := d.SaveAuthority(ca); err != nil {
		t.Fatal(err)
	}
	credentials, err := d.LoadCredentials()
	if err != nil || credentials.Identity() != (pki.Identity{Name: "a", Kind: pki.KindData}) || credentials.ClusterID() != "c1" {
		t.Errorf("%+v, %v", credentials, err)
	}
	authority, err := d.LoadAuthority()
	if err != nil || authority.Fingerprint() != ca.Fingerprint() {
		t.Errorf("%v", err)
	}
	for name, want := range map[string]fs.FileMode{"ca.crt": 0o644, "ca.key": 0o600, "node.crt": 0o644, "node.key": 0o600} {
		if info, err := os.Stat(filepath.Join(d.TLS(), name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestCredentialsRefuse(t *testing.T) {
	d := newDir(t)
	_, identity := newIdentity(t)
	_, other := newIdentity(t)
	mixed := identity
	mixed.CA = other.CA
	wantError(t, d.SaveIdentity(mixed), pki.ErrOtherCluster)
	mixed = identity
	mixed.Key = other.Key
	wantError(t, d.SaveIdentity(mixed), nil, "does not belong")
	if entries, err := os.ReadDir(d.TLS()); err != nil || len(entries) != 0 {
		t.Errorf("written nevertheless: %v, %v", entries, err)
	}

	if err := d.SaveIdentity(identity); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(d.TLS(), "node.key")
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := d.LoadCredentials()
	wantError(t, err, ErrExposedKey, key, "mode 640", "chmod 600")
	if err := os.WriteFile(key, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = d.LoadCredentials()
	wantError(t, err, nil, d.TLS(), "key")
}
