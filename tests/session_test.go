package tests

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"duet/tests/cluster"
)

// dial connects to an export.
func dial(context.Context, string) (session, error) {
	return nil, errors.New("no NBD client")
}

// clientCertificates lays a node's certificate out as libnbd and QEMU expect it, and returns the directory.
func (s *scenario) clientCertificates(n *cluster.Node) string {
	s.t.Helper()
	dir := s.t.TempDir()
	for from, to := range map[string]string{"ca.pem": "ca-cert.pem", "node.pem": "client-cert.pem", "node.key": "client-key.pem"} {
		text, err := os.ReadFile(filepath.Join(n.Dir, "tls", from))
		if err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), text, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return dir
}
