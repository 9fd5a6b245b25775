package failover

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"duet/internal/control"
	"duet/tests/cluster"
)

// game is a cluster under load to which faults are done, one after the other.
type game struct {
	*group
	load    *load
	history *history
	random  *rand.Rand
	log     func(format string, arguments ...any)
	moves   int // of the Primary
	// hold tells the operator that nobody else is to be Primary.
	hold  atomic.Bool
	ended map[string]bool // daemons that the game has ended, and not started again
	ends  []func()
}

// open starts a cluster and the load.
func open(ctx context.Context, c Config, seed uint64, log func(string, ...any)) (*game, error) {
	g, err := assemble(ctx, c)
	if err != nil {
		return nil, err
	}
	p := &game{group: g, history: newHistory(usedBlocks), random: rand.New(rand.NewPCG(seed, 0)), log: log, ended: map[string]bool{}}
	p.load = begin(ctx, p.history, g)
	if c.Manual {
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		// The operator; ends with the game.
		go func() {
			defer close(ended)
			p.operate(ctx)
		}()
		p.ends = append(p.ends, func() { cancel(); <-ended })
	}
	return p, nil
}

// finish ends the load and the cluster: in good order if nothing was wrong, and then all disks must be equal.
func (p *game) finish(ctx context.Context, orderly bool) error {
	for _, end := range p.ends {
		end()
	}
	failures := []error{p.load.end()}
	if orderly {
		ctx, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		began := time.Now()
		failures = append(failures, p.Stop(ctx), p.sameDisks())
		p.log("all stopped, and the disks compared, in %v", time.Since(began).Round(time.Millisecond))
	}
	return errors.Join(append(failures, p.close())...)
}

// operate is the operator of a resource with manual promotion: when nothing has been written for a while, an in-sync replica is
// asked to become Primary. It ends with ctx.
func (p *game) operate(ctx context.Context) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if p.history.quiet() < 400*time.Millisecond || p.load.isPaused() || p.hold.Load() {
			continue
		}
		for _, node := range p.dataNodes() {
			s := p.status(ctx, node)
			if s == nil || s.Role == control.RolePrimary || !slices.Contains(s.InSync, node) {
				continue
			}
			ask, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, err := p.asks[node].Primary(ask, resource, &control.PrimaryRequest{})
			cancel()
			if err == nil {
				break
			}
		}
	}
}

// fault is something that is done to the cluster.
type fault struct {
	name string
	// stays says that the Primary must stay who it is, all the time.
	stays bool
	// moves says that somebody else must be Primary in the end.
	moves bool
	do    func(ctx context.Context, p *game) error
}

// play does one fault and looks whether all becomes well again by itself. It is over when all replicas are in sync again and what was
// seen has been judged.
func (p *game) play(ctx context.Context, f fault) error {
	began := time.Now()
	if err := p.learn(ctx); err != nil {
		return err
	}
	before, from := p.primary(ctx), p.generation()
	p.hold.Store(f.stays)
	err := f.do(ctx, p)
	if err == nil {
		err = p.settle(ctx)
	}
	if err == nil {
		err = p.judgeAll(ctx)
	}
	if err == nil {
		err = p.judgeMoves(f, before, from)
	}
	if err != nil {
		return fmt.Errorf("%s, Primary was %s in generation %d: %w\n%s", f.name, before, from, err, p.describe(ctx))
	}
	writes, reads := p.history.counts()
	p.log("%-45s %v, Primary %s to %s, generation %d to %d, %d writes and %d reads so far", f.name, time.Since(began).Round(time.Millisecond),
		before, p.tenures()[len(p.tenures())-1].node, from, p.generation(), writes, reads)
	return nil
}

// settle takes every fault back and waits until the service is there and all are in sync.
func (p *game) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	failures := []error{p.network.Heal(ctx)}
	for _, n := range p.Nodes {
		n.Before = nil
		switch {
		case n.Running():
			failures = append(failures, n.Thaw())
		case p.ended[n.Name]:
			failures = append(failures, p.startAgain(n.Name))
		default:
			failures = append(failures, fmt.Errorf("%s has ended by itself: %s", n.Name, n.Process().Tail(3)))
		}
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if err := p.serves(ctx, 50); err != nil {
		return err
	}
	return cluster.WaitFor(ctx, "all replicas to be in sync", func() error { return p.insync(ctx) })
}

// serves waits until so many further writes are answered.
func (p *game) serves(ctx context.Context, more int) error {
	writes, _ := p.history.counts()
	return cluster.WaitFor(ctx, fmt.Sprintf("%d writes", more), func() error {
		now, _ := p.history.counts()
		for _, n := range p.Nodes {
			if !n.Running() && !p.ended[n.Name] {
				return fmt.Errorf("%s has ended by itself: %s", n.Name, n.Process().Tail(3))
			}
		}
		if now-writes < more {
			return fmt.Errorf("%d are answered", now-writes)
		}
		return nil
	})
}

// judgeAll judges what was seen, and compares the disks.
func (p *game) judgeAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	p.load.pauseAll()
	defer p.load.resume()
	if err := p.load.readAll(ctx); err != nil {
		return err
	}
	if err := p.learn(ctx); err != nil {
		return err
	}
	if err := p.history.judge(p.tenures()); err != nil {
		return err
	}
	// What a client gave up may still be under way to the disks.
	return cluster.WaitFor(ctx, "equal disks", func() error {
		if err := p.insync(ctx); err != nil {
			return err
		}
		return p.sameBlocks()
	})
}

// judgeMoves checks who was Primary meanwhile.
func (p *game) judgeMoves(f fault, before string, from uint64) error {
	moved, last := false, before
	for _, note := range p.since(from) {
		if note.Primary != "" && note.Primary != last {
			moved, last = true, note.Primary
			p.moves++
		}
		if note.Forced {
			return fmt.Errorf("generation %d was forced", note.Generation)
		}
	}
	switch {
	case f.stays && moved:
		return fmt.Errorf("a false failover: %s became Primary", last)
	case f.moves && last == before:
		return errors.New("nobody else became Primary")
	}
	return nil
}
