package tests

import (
	"os"
	"strings"
	"testing"
)

// Two of three voters are lost with their directories. The survivor goes on alone when it is told to: what was flushed is there, and
// new nodes come. An old voter that turns up again is refused, and a second one does not make a majority with it.
func TestLostQuorumRecovered(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	a, b, witness := s.Node("a"), s.Node("b"), s.Node("witness")
	r := newRecorder(0, 16384)
	l := r.begin(t, a.URI("r0"))
	l.waitWrites(t, 300)
	s.inSync("r0")
	s.kill(witness)
	if err := os.Rename(witness.Dir, witness.Dir+".kept"); err != nil { // what somebody may find in a backup
		t.Fatal(err)
	}
	s.kill(a)
	<-l.done
	if err := os.RemoveAll(a.Dir); err != nil {
		t.Fatal(err)
	}
	s.refuses(b, "another daemon runs", "quorum", "recover", "--yes")
	s.stop(b)
	s.refuses(b, "Given up for ever: a, witness", "quorum", "recover") // it asks, and there is no terminal
	s.duet(b, "quorum", "recover", "--yes")
	s.refuses(b, "the only voter already", "quorum", "recover", "--yes")
	s.restart(b)
	if events := s.duet(b, "events"); !strings.Contains(events, "the quorum was rebuilt on b") {
		t.Errorf("the events don't tell:\n%s", events)
	}
	s.promote(b, "r0")
	r.verify(t, b.URI("r0"))

	if err := os.Rename(witness.Dir+".kept", witness.Dir); err != nil {
		t.Fatal(err)
	}
	s.rejects(witness, "the quorum was rebuilt without this node")
	s.duet(b, "node", "remove", "a", "--with-replicas")
	s.duet(b, "node", "remove", "witness")
	if got := s.members(b); got != "b" {
		t.Fatalf("the nodes are %s", got)
	}
	l = r.begin(t, b.URI("r0"))
	l.waitWrites(t, 100)
	s.Nodes = append(s.Nodes[1:2], a, witness) // tokens are b's from now on
	c := s.join("c", false)
	s.join("other", true)
	s.duet(b, "resource", "add-replica", "r0", "--on", "c="+s.Disk("c", "r0"))
	s.inSyncAre(b, "b", "c")
	l.waitWrites(t, 100)
	s.kill(c)
	s.restart(c) // it knows of the recovery on its own
	s.inSyncAre(b, "b", "c")
	s.rejects(witness, "the quorum was rebuilt without this node")
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	r.verify(t, b.URI("r0"))
	s.sameDisks("b", "c")
}
