package replication

import (
	"errors"
	"testing"
)

// A demotion that comes while a promotion is under way is the last word: it is answered when the role was given up, and
// the promotion doesn't take it again.
func TestDemotionOutlastsPromotion(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	a := c.nodes["a"].resource
	asked, goOn := make(chan struct{}, 8), make(chan struct{})
	c.arbiter.before = func(p Proposal) {
		if p.Kind == ProposePromote {
			asked <- struct{}{}
			<-goOn
		}
	}
	promoted, demoted := make(chan error, 1), make(chan error, 1)
	go func() { promoted <- a.Promote(t.Context()) }()
	<-asked
	go func() { demoted <- a.Demote(t.Context()) }()
	c.wait("the demotion to be known", func() bool {
		known := make(chan uint64, 1)
		return a.call(t.Context(), func() { known <- a.demotions }) == nil && <-known == 1
	})
	select {
	case err := <-demoted:
		close(goOn)
		t.Fatalf("the demotion ended before the promotion: %v", err)
	default:
	}
	close(goOn)
	if err := <-demoted; err != nil {
		t.Error(err)
	}
	if conf := c.arbiter.record(); conf.Primary != "" || conf.Generation < 3 {
		t.Errorf("the record is %+v", conf)
	}
	c.endsWith(promoted, asked)
}

// A role that was granted and given up again is not asked for a second time by the same call.
func TestPromotionIsAskedForOnce(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	a := c.nodes["a"].resource
	asked := make(chan struct{}, 8)
	c.arbiter.before = func(p Proposal) {
		if p.Kind == ProposePromote {
			asked <- struct{}{}
		}
	}
	promoted := make(chan error, 1)
	go func() { promoted <- a.Promote(t.Context()) }()
	<-asked
	c.wait("a to serve", a.Serving)
	if err := a.Demote(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.endsWith(promoted, asked)
	if conf := c.arbiter.record(); conf.Primary != "" || conf.Generation < 3 {
		t.Errorf("the record is %+v", conf)
	}
}

// endsWith wants a promotion to end without asking again.
func (c *testCluster) endsWith(promoted <-chan error, asked <-chan struct{}) {
	c.t.Helper()
	select {
	case err := <-promoted:
		if err != nil && !errors.Is(err, ErrRefused) {
			c.t.Error(err)
		}
	case <-asked:
		c.t.Error("the role is asked for again")
	}
}

// record is what is committed.
func (a *recordArbiter) record() Configuration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conf
}
