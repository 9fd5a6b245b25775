package tests

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"duet/tests/cluster"
)

// join adds a node to the cluster and waits until it takes part.
func (s *scenario) join(name string, witness bool) *cluster.Node {
	s.t.Helper()
	var n *cluster.Node
	s.within(settleTimeout, func(ctx context.Context) (err error) {
		n, err = s.Add(ctx, name, witness)
		return err
	})
	return n
}

// rejects starts the daemon of a node that has to end by itself, and to say why.
func (s *scenario) rejects(n *cluster.Node, reason string) {
	s.t.Helper()
	if err := n.Run(); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-n.Process().Exited():
	case <-time.After(settleTimeout):
		s.t.Fatalf("%s runs", n.Name)
	}
	text, err := n.Log()
	if err != nil || !strings.Contains(text, reason) {
		s.t.Fatalf("%s says (%v):\n%s\nand not %q", n.Name, err, n.Process().Tail(5), reason)
	}
}

// members are the nodes that `node list` names.
func (s *scenario) members(n *cluster.Node) string {
	s.t.Helper()
	var names []string
	for _, line := range strings.Split(s.duet(n, "node", "list"), "\n")[1:] {
		if fields := strings.Fields(line); len(fields) > 0 {
			names = append(names, fields[0])
		}
	}
	return strings.Join(names, " ")
}

func (s *scenario) sameDisks(names ...string) {
	s.t.Helper()
	for _, name := range names[1:] {
		if err := sameBytes(s.Disk(names[0], "r0"), s.Disk(name, "r0")); err != nil {
			s.t.Errorf("%s and %s differ: %v", names[0], name, err)
		}
	}
}

// The recipe for a node that is dead for good, followed while the application goes on: remove it, let another one join, give
// that one its replicas. The dead one, which was not so dead after all, is refused; it joins again under its old name.
func TestDeadNodeReplaced(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	a, b := s.Node("a"), s.Node("b")
	r := newRecorder(0, 16384)
	l := r.begin(t, a.URI("r0"))
	l.waitWrites(t, 200)
	s.kill(b)
	s.inSyncAre(a, "a")

	s.refuses(a, "has replicas of r0", "node", "remove", "b")
	s.refuses(a, "can't remove itself", "node", "remove", "a")
	s.refuses(s.Node("witness"), "is the Primary", "node", "remove", "a", "--with-replicas")
	s.duet(a, "node", "remove", "b", "--with-replicas")
	if got := s.members(a); got != "a witness" {
		t.Fatalf("the nodes are %s", got)
	}
	s.refuses(a, "not a node", "node", "remove", "b")

	s.join("d", false)
	s.duet(a, "resource", "add-replica", "r0", "--on", "d="+s.Disk("d", "r0"))
	s.inSyncAre(a, "a", "d")
	l.waitWrites(t, 200)

	s.rejects(b, "is not a member of the cluster any more")
	if err := os.Rename(b.Dir, b.Dir+".former"); err != nil {
		t.Fatal(err)
	}
	s.join("b", false)
	s.refuses(a, "--force", "resource", "add-replica", "r0", "--on", "b="+s.Disk("b", "r0"))
	s.duet(a, "resource", "add-replica", "r0", "--on", "b="+s.Disk("b", "r0"), "--force")
	s.inSyncAre(a, "a", "b", "d")
	l.waitWrites(t, 200)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	r.verify(t, a.URI("r0"))
	s.sameDisks("a", "b", "d")
}

// A third replica comes under load, dies in the middle of its resync, and is in sync in the end; it goes under load, too, and its
// disk serves again after that. Then it is worth something: it takes over from both others.
func TestThirdReplicaComesAndGoes(t *testing.T) {
	s := start(t)
	s.create("r0", "256MiB")
	a := s.Node("a")
	r := newRecorder(0, 65536)
	l := r.begin(t, a.URI("r0"))
	l.waitWrites(t, 500)
	c := s.join("c", false)
	s.duet(a, "resource", "add-replica", "r0", "--on", "c="+s.Disk("c", "r0"))
	s.kill(c)
	l.waitWrites(t, 200)
	s.restart(c)
	s.inSyncAre(a, "a", "b", "c")
	l.waitWrites(t, 200)
	s.refuses(a, "has a replica of r0 already", "resource", "add-replica", "r0", "--on", "c=/dev/null")
	s.refuses(a, "is a witness", "resource", "add-replica", "r0", "--on", "witness=/dev/null")
	s.refuses(a, "is the Primary", "resource", "remove-replica", "r0", "a")

	s.duet(a, "resource", "remove-replica", "r0", "c")
	s.inSyncAre(a, "a", "b")
	l.waitWrites(t, 200)
	s.within(settleTimeout, func(ctx context.Context) error {
		return cluster.WaitFor(ctx, "c to let go of its replica", func() error {
			left, err := os.ReadDir(c.Dir + "/meta")
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("%d files are left", len(left))
			}
			return err
		})
	})
	s.duet(a, "resource", "add-replica", "r0", "--on", "c="+s.Disk("c", "r0"), "--force")
	s.inSyncAre(a, "a", "b", "c")
	l.waitWrites(t, 200)

	s.duet(a, "resource", "edit", "r0", "--promotion", "manual", "--preferred", "c", "--disk-timeout", "30s")
	s.within(settleTimeout, func(ctx context.Context) error {
		return cluster.WaitFor(ctx, "c to learn of the edit", func() error {
			shown := s.duet(c, "resource", "show", "r0")
			if !strings.Contains(shown, "manual, preferred c") || !strings.Contains(shown, "disk timeout 30s") {
				return fmt.Errorf("it has\n%s", shown)
			}
			return nil
		})
	})
	s.refuses(a, "changes nothing", "resource", "edit", "r0", "--promotion", "manual")
	s.kill(a)
	<-l.done
	s.promote(c, "r0")
	r.verify(t, c.URI("r0"))
	s.inSyncAre(c, "b", "c")
	s.sameDisks("b", "c")
}

// A witness is removed, what that costs is said, and another one takes its place; nothing is removed that is needed to decide.
func TestWitnessReplaced(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB", "--promotion", "manual")
	a, b, witness := s.Node("a"), s.Node("b"), s.Node("witness")
	if said := s.duet(a, "node", "remove", "witness"); !strings.Contains(said, "the cluster has two voters now, a and b") {
		t.Errorf("the operator is told: %s", said)
	}
	select {
	case <-witness.Process().Exited():
	case <-time.After(settleTimeout):
		t.Fatal("the removed witness runs")
	}
	other := s.join("other", true)
	if got := s.members(a); got != "a b other" {
		t.Fatalf("the nodes are %s", got)
	}
	s.rejects(witness, "is not a member of the cluster any more")
	r := newRecorder(0, 16384)
	l := r.begin(t, a.URI("r0"))
	l.waitWrites(t, 100)
	s.kill(b)
	l.waitWrites(t, 200) // with the new witness's vote
	s.restart(b)
	s.inSync("r0")
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	r.verify(t, a.URI("r0"))
	s.identical("r0")

	s.kill(other)
	s.refuses(a, "2 of them are a majority, and only", "node", "remove", "b", "--with-replicas")
	if got := s.members(a); got != "a b other" {
		t.Fatalf("the nodes are %s", got)
	}
	s.inSync("r0")
}
