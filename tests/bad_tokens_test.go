package tests

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"duet/tests/cluster"
)

// A join token admits one node, until it expires, and only as it was printed. Who is refused leaves nothing behind: not
// in the cluster and not in the directory, where a later join with a good token works.
func TestBadTokens(t *testing.T) {
	s := start(t, dataNodes(1), func(c *cluster.Config) { c.Witness = false })
	a := s.Node("a")
	token := func(arguments ...string) string {
		return strings.TrimSpace(s.duet(a, append([]string{"token"}, arguments...)...))
	}
	const life = 2 * time.Second
	expired, expires := token("--ttl", life.String()), time.Now().Add(life)
	used, good := token(), token()
	s.joins("first", used, 0)

	mistyped := []byte(good)
	mistyped[len(mistyped)/2] ^= 1
	tests := []struct{ name, token string }{
		{"no token at all", "hello"},
		{"mistyped", string(mistyped)},
		{"cut", good[:len(good)-5]},
		{"used", used},
		{"expired", expired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &scenario{Cluster: s.Cluster, t: t, dir: s.dir}
			s.within(settleTimeout, func(ctx context.Context) error {
				return cluster.WaitFor(ctx, "the end of the token's life", func() error {
					if tt.token == expired && time.Now().Before(expires) {
						return errors.New("it is still valid")
					}
					return nil
				})
			})
			before := s.duet(a, "node", "list")
			s.joins("second", tt.token, exitRefused)
			if after := s.duet(a, "node", "list"); after != before {
				t.Errorf("members before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
	s.joins("second", good, 0)
}

// joins tries to join a node by a token and checks the exit status.
func (s *scenario) joins(name, token string, code int) {
	s.t.Helper()
	n, err := s.Stranger(name)
	if err != nil {
		s.t.Fatal(err)
	}
	arguments := []string{"join", "--name", n.Name, "--listen", n.Address, "--advertise", n.Address, "--witness", token}
	if code != 0 {
		s.refused(n, refusal{arguments: arguments, code: code, words: []string{"token"}})
		return
	}
	s.duet(n, arguments...)
}
