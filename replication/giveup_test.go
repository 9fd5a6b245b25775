package replication

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"
)

// answer waits for a completion.
func (c *testCluster) answer(what string, done waitCompletion) error {
	c.t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		c.t.Fatalf("%s is never completed", what)
		return nil
	}
}

// A Primary that loses its role, or is closed while the quorum does not answer, keeps no request: not one that waits for
// a peer, not a flush that is part of a barrier.
func TestNoRequestIsKeptForEver(t *testing.T) {
	for name, end := range map[string]func(c *testCluster){
		"fenced": func(c *testCluster) {
			c.arbiter.mu.Lock()
			conf := c.arbiter.conf
			conf.Generation, conf.Primary, conf.PrimaryIncarnation = conf.Generation+1, "b", 1
			c.arbiter.conf = conf
			c.arbiter.mu.Unlock()
			c.nodes["a"].resource.Learn(conf)
		},
		"closed": func(c *testCluster) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			if err := c.nodes["a"].resource.Close(ctx); err == nil {
				c.t.Error("closed in good order although nothing can be committed")
			}
			c.mu.Lock()
			c.nodes["a"].resource = nil
			c.mu.Unlock()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.writeSome("a", 5)
			release := make(chan struct{})
			stuck := func(operation string) error {
				if operation != "read" {
					<-release
				}
				return nil
			}
			c.nodes["b"].disk.fault.Store(&stuck)
			v := c.nodes["a"].resource.Volume()
			write, flush := make(waitCompletion, 1), make(waitCompletion, 1)
			v.Flush(nil, flush)
			c.wait("the barrier is under way", func() bool {
				v.mu.Lock()
				defer v.mu.Unlock()
				return v.barrier != nil && len(v.barrier.flushes) == 1
			})
			v.Write(randomBytes(4096), 8192, false, nil, write)
			c.arbiter.mu.Lock()
			c.arbiter.silent = true
			c.arbiter.mu.Unlock()
			end(c)
			for what, done := range map[string]waitCompletion{"the write": write, "the flush": flush} {
				if err := c.answer(what, done); err == nil {
					t.Errorf("%s was acknowledged", what)
				}
			}
			if left := v.Left(); left != "" {
				t.Error(left)
			}
			close(release)
		})
	}
}

// On the only in-sync disk an activity log that fails makes writes fail; extents that they never got are not given back.
func TestOnlyActivityLogFails(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.crash("b")
	if err := c.tryWrite("a", 0, randomBytes(4096)); err != nil {
		t.Fatal(err)
	}
	c.wait("a is alone", func() bool { return c.inSync() == "[a]" })
	c.nodes["a"].meta.failing("write", syscall.EIO)
	for i := range uint64(4) {
		if err := c.tryWrite("a", (i+1)*(4<<20), randomBytes(4096)); !errors.Is(err, ErrDiskFailed) {
			t.Errorf("a write whose extent could not be noted: %v", err)
		}
	}
	if left := c.nodes["a"].resource.Volume().Left(); left != "" {
		t.Error(left)
	}
}

// From the end of a member's session on no write is acknowledged without it, also before the control loop has looked at what
// follows: the record still has the member, which may be promoted.
func TestNoWriteBetweenLossAndRemoval(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.write("a", 0, randomBytes(4096)) // its extent is hot
	c.arbiter.mu.Lock()
	c.arbiter.silent = true
	c.arbiter.mu.Unlock()
	a, s := c.nodes["a"].resource, c.session("a", "b")
	goOn := make(chan struct{})
	a.post(func() { <-goOn })
	s.fail(errors.New("lost"))
	<-s.ended
	c.wait("the end of the session to be the control loop's", func() bool {
		a.events.mu.Lock()
		defer a.events.mu.Unlock()
		return len(a.events.queue) > 0
	})
	write, checked := make(waitCompletion, 1), make(chan error, 1)
	a.post(func() {
		a.volume.Write(randomBytes(4096), 0, false, nil, write)
		select {
		case err := <-write:
			checked <- errors.Join(errors.New("it was answered"), err)
		case <-time.After(50 * time.Millisecond):
			checked <- nil
		}
	})
	close(goOn)
	if err := <-checked; err != nil {
		t.Errorf("a write beside a member that was lost, and not removed: %v", err)
		return
	}
	c.arbiter.mu.Lock()
	c.arbiter.silent = false
	c.arbiter.mu.Unlock()
	if err := c.answer("the write", write); err != nil {
		t.Error(err)
	}
	c.converged("a")
}
