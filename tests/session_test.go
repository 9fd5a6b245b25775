package tests

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"duet/nbd/nbdclient"
	"duet/tests/cluster"
)

// dial connects to the export of an nbd:// URI. The connection ends with the test at the latest.
func dial(t *testing.T, uri string) *nbdclient.Client {
	t.Helper()
	parsed, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	client, err := nbdclient.Dial(ctx, "tcp", parsed.Host, nbdclient.Config{Export: strings.TrimPrefix(parsed.Path, "/")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// clientCertificates lays a node's certificate out as libnbd and QEMU expect it, and returns the directory.
func (s *scenario) clientCertificates(n *cluster.Node) string {
	s.t.Helper()
	dir := s.t.TempDir()
	for from, to := range map[string]string{"ca.crt": "ca-cert.pem", "node.crt": "client-cert.pem", "node.key": "client-key.pem"} {
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
