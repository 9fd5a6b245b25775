package tests

import (
	"testing"

	"duet/tests/cluster"
)

// Three replicas without a witness: the loss of a Secondary leaves two, the loss of the Primary then leaves one that
// has everything. All return, and all three are identical.
func TestThreeReplicas(t *testing.T) {
	s := start(t, dataNodes(3), func(c *cluster.Config) { c.Witness = false })
	s.create("r0", "64MiB")
	a, b, c := s.Node("a"), s.Node("b"), s.Node("c")
	r := newRecorder(0, 16384)

	l := r.begin(t, a.URI("r0"))
	l.waitWrites(t, 200)
	s.kill(c)
	s.inSyncAre(a, "a", "b")
	l.waitWrites(t, 200)
	s.restart(c)
	l.waitWrites(t, 100)
	s.inSync("r0")

	s.kill(b)
	s.inSyncAre(a, "a", "c")
	l.waitWrites(t, 200)
	s.restart(b)
	s.inSync("r0")

	s.kill(a)
	<-l.done
	s.promote(b, "r0")
	r.verify(t, b.URI("r0"))
	l = r.begin(t, b.URI("r0"))
	l.waitWrites(t, 200)
	s.restart(a)
	s.inSync("r0")
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	r.verify(t, b.URI("r0"))
	s.identical("r0")
}
