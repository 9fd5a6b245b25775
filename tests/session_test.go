package tests

import (
	"context"
	"net/url"
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

// clientCertificates makes credentials of an NBD client, as libnbd and QEMU expect them, and returns the directory.
func (s *scenario) clientCertificates(n *cluster.Node) string {
	s.t.Helper()
	dir := s.t.TempDir()
	s.duet(n, "token", "--client", "tester", "--out", dir)
	return dir
}
