package replication

import (
	"testing"
	"time"
)

// A new Primary waits for the members of its set to connect, but not for one of which nothing is heard at all.
func TestSilentMemberIsNotWaitedFor(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 5)
	c.converged("a")
	c.demote("a")
	c.crash("b")
	c.again("a")
	a := c.nodes["a"].resource
	if err := a.call(t.Context(), func() { a.graceEnd = time.Now().Add(time.Hour) }); err != nil {
		t.Fatal(err)
	}
	write := make(waitCompletion, 1)
	a.Volume().Write(randomBytes(4096), 0, false, nil, write)
	c.wait("b is removed", func() bool { a.Silent("b"); return c.inSync() == "[a]" })
	if err := c.answer("the write", write); err != nil {
		t.Error(err)
	}
	c.start("b")
	c.wait("all in sync", c.allInSync)
	c.flush("a")
	c.equal()
}
