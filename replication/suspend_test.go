package replication

import (
	"context"
	"errors"
	"testing"
	"time"

	"duet/bitmap"
)

// holdDisk makes an operation of a disk wait for release.
func holdDisk(d *memoryDisk, operation string) (held <-chan struct{}, release chan<- struct{}) {
	h, r := make(chan struct{}, 64), make(chan struct{})
	fault := func(what string) error {
		if what == operation {
			h <- struct{}{}
			<-r
		}
		return nil
	}
	d.fault.Store(&fault)
	return h, r
}

// parked waits until a request is.
func (c *testCluster) parked(name string) {
	c.t.Helper()
	v := c.nodes[name].resource.volume
	c.wait("a request to be parked", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.parked) > 0
	})
}

func (c *testCluster) begin(name string, off uint64) waitCompletion {
	done := make(waitCompletion, 1)
	c.nodes[name].resource.Volume().Write(randomBytes(bitmap.BlockBytes), off, false, nil, done)
	return done
}

// What is under way ends first, on all replicas; what comes then waits, and is done when it goes on.
func TestSuspendWaitsForWhatIsUnderWay(t *testing.T) {
	for _, tt := range []struct {
		name, operation string
		flush           bool
	}{{"write", "write", false}, {"sync", "sync", true}} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCluster(t, "a", "b")
			c.promote("a")
			c.write("a", 0, randomBytes(bitmap.BlockBytes)) // hot from here on: what follows is under way at once
			held, release := holdDisk(c.nodes["b"].disk, tt.operation)
			first := c.begin("a", 0)
			a := c.nodes["a"].resource
			suspended := make(chan error, 1)
			go func() {
				_, err := a.SuspendIO(t.Context(), SuspendOptions{Flush: tt.flush})
				suspended <- err
			}()
			<-held
			c.wait("the suspension to be known", func() bool { return a.Status().ByOperator })
			second := c.begin("a", 4096)
			c.parked("a")
			select {
			case err := <-suspended:
				t.Fatalf("it returned while the disk of b was busy: %v", err)
			default:
			}
			close(release)
			if err := errors.Join(<-suspended, <-first); err != nil {
				t.Fatal(err)
			}
			c.equal()
			select {
			case err := <-second:
				t.Fatalf("a request was done while they are suspended: %v", err)
			default:
			}
			if st := a.Status(); !st.Suspended || st.Role != "Primary" {
				t.Errorf("status is %+v", st)
			}
			if err := errors.Join(a.ResumeIO(t.Context()), <-second); err != nil {
				t.Fatal(err)
			}
			c.equal()
		})
	}
}

// One that can't be reached in time leaves everything as it was.
func TestSuspendGivesUp(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	held, release := holdDisk(c.nodes["b"].disk, "write")
	first := c.begin("a", 0)
	<-held
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	a := c.nodes["a"].resource
	if _, err := a.SuspendIO(ctx, SuspendOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("err = %v", err)
	}
	if st := a.Status(); st.Suspended || st.ByOperator {
		t.Errorf("status is %+v", st)
	}
	close(release)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	c.writeSome("a", 1)
}

func TestSuspensionEndsByItself(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	a := c.nodes["a"].resource
	reached, err := a.SuspendIO(t.Context(), SuspendOptions{For: 100 * time.Millisecond})
	if err != nil || reached.Until.IsZero() || len(reached.InSync) != 2 {
		t.Fatalf("reached %+v, %v", reached, err)
	}
	if err := <-c.begin("a", 0); err != nil {
		t.Fatal(err)
	}
	if a.Status().ByOperator {
		t.Error("it is suspended still")
	}
	if err := a.ResumeIO(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("resume of nothing: %v", err)
	}
}

// The loss of a peer changes nothing for who waits, and the suspension outlasts it.
func TestSuspensionOutlastsAPeer(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	a := c.nodes["a"].resource
	if _, err := a.SuspendIO(t.Context(), SuspendOptions{Flush: true}); err != nil {
		t.Fatal(err)
	}
	done := c.begin("a", 0)
	c.parked("a")
	c.crash("b")
	c.wait("b to leave the set", func() bool { return len(c.arbiter.record().InSync) == 1 && a.Status().Generation == 3 })
	if st := a.Status(); !st.Suspended || !st.ByOperator {
		t.Fatalf("status is %+v", st)
	}
	select {
	case err := <-done:
		t.Fatalf("the write was done: %v", err)
	default:
	}
	if err := errors.Join(a.ResumeIO(t.Context()), <-done); err != nil {
		t.Fatal(err)
	}
	c.start("b")
	c.wait("b in sync again", c.allInSync)
	c.equal()
}

// A demotion ends the suspension: what waits fails, as with any demotion, and the next Primary serves.
func TestDemotionEndsASuspension(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 5)
	a := c.nodes["a"].resource
	if _, err := a.SuspendIO(t.Context(), SuspendOptions{}); err != nil {
		t.Fatal(err)
	}
	done := c.begin("a", 0)
	c.parked("a")
	if err := a.Demote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("a write was done by a node that is not Primary")
	}
	if _, err := a.SuspendIO(t.Context(), SuspendOptions{}); !errors.Is(err, ErrNotPrimary) {
		t.Errorf("suspend on a Secondary: %v", err)
	}
	c.promote("b")
	c.writeSome("b", 1)
	c.promoteBack("b", "a")
	c.equal()
}

// promoteBack hands the role over in good order.
func (c *testCluster) promoteBack(from, to string) {
	c.t.Helper()
	if err := c.nodes[from].resource.Demote(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	c.promote(to)
	c.writeSome(to, 1)
}
