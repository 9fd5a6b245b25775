package tests

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"duet/tests/cluster"
)

// Two data nodes without a witness: when one is lost, whichever it is, the other one neither acknowledges anything nor takes a role,
// and goes on by itself when the lost one is back. The creation has said so.
func TestTwoNodesWithoutAWitness(t *testing.T) {
	s := start(t, func(c *cluster.Config) { c.Witness = false })
	a, b := s.Node("a"), s.Node("b")
	said := s.duet(a, "resource", "create", "r0", "--size", "64MiB", "--on", "a="+s.Disk("a", "r0"), "--on", "b="+s.Disk("b", "r0"))
	for _, words := range []string{"no witness", "writes on the other freeze", "duet join --witness"} {
		if !strings.Contains(said, words) {
			t.Errorf("the creation says %q, want %q", said, words)
		}
	}
	s.inSync("r0")
	s.quorumSays(a, "none of them can be lost")
	r := newRecorder(0, 4096)
	l := r.begin(t, a.URI("r0"))
	l.waitWrites(t, 200)

	s.kill(b)
	s.until(a, "r0", "writes to freeze", func(r *cluster.Resource) error {
		if !r.Suspended {
			return fmt.Errorf("not suspended")
		}
		return nil
	})
	frozen := r.count()
	s.quorumSays(a, "NO QUORUM")
	if now := r.count(); now != frozen {
		t.Errorf("%d writes were acknowledged while the other node was away", now-frozen)
	}
	s.restart(b)
	l.waitWrites(t, 200)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	s.inSync("r0")

	s.kill(a)
	result, err := b.Command(t.Context(), "--timeout", "3s", "primary", "r0")
	if err != nil || result.ExitCode == 0 {
		t.Errorf("b becomes Primary by itself: %+v, %v", result, err)
	}
	s.restart(a)
	s.inSync("r0")
	r.verify(t, s.serving(a, b).URI("r0"))
	s.identical("r0")
}

// serving waits until one of the nodes is Primary and serves, and returns it.
func (s *scenario) serving(nodes ...*cluster.Node) (found *cluster.Node) {
	s.t.Helper()
	s.within(settleTimeout, func(ctx context.Context) error {
		return cluster.WaitFor(ctx, "somebody to serve", func() error {
			for _, n := range nodes {
				if r, err := n.Resource(ctx, "r0"); err == nil && r.Role == "Primary" && !r.Suspended {
					found = n
					return nil
				}
			}
			return errors.New("nobody does")
		})
	})
	return found
}

// quorumSays waits until `duet quorum status` on a node says so; a moment may be one of an election.
func (s *scenario) quorumSays(n *cluster.Node, words string) {
	s.t.Helper()
	s.within(settleTimeout, func(ctx context.Context) error {
		return cluster.WaitFor(ctx, words, func() error {
			said, err := n.MustSucceed(ctx, "quorum", "status")
			if err == nil && !strings.Contains(said, words) {
				err = fmt.Errorf("it says %q", said)
			}
			return err
		})
	})
}
