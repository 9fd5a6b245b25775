package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"duet/tests/cluster"
	"duet/tests/namespaces"
)

// faults are all that the game knows.
func faults() []fault {
	return []fault{
		{name: "Primary killed", moves: true, do: killPrimary},
		{name: "Primary killed and started at once", do: restartPrimary},
		{name: "Secondary killed", stays: true, do: killSecondary},
		{name: "witness killed", stays: true, do: killWitness},
		{name: "Primary frozen", do: freezePrimary},
		{name: "Secondary frozen", stays: true, do: freezeSecondary},
		{name: "host of the Primary silent", moves: true, do: silence},
		{name: "Primary cut off from all nodes", moves: true, do: isolatePrimary},
		{name: "Secondary cut off from all nodes", stays: true, do: isolateSecondary},
		{name: "witness cut off from all nodes", stays: true, do: isolateWitness},
		{name: "Primary and Secondary cut", stays: true, do: cutReplicas},
		{name: "Primary and witness cut", stays: true, do: cutPrimaryWitness},
		{name: "Secondary and witness cut", stays: true, do: cutSecondaryWitness},
		{name: "Primary unheard by the Secondary", stays: true, do: unheardBySecondary},
		{name: "Secondary unheard by the Primary", stays: true, do: secondaryUnheard},
		{name: "Primary unheard by all", moves: true, do: unheard},
		{name: "Primary deaf", do: deaf},
		{name: "each hears only one other", do: ring},
		{name: "links of the Primary flapping", do: flapPrimary},
		{name: "link between Primary and Secondary flapping", stays: true, do: flapReplicas},
		{name: "some link flapping", do: flapAny},
		{name: "all killed, started in some order", do: killAll},
		{name: "all stopped, started in some order", do: stopAll},
		{name: "each restarted, in some order", do: restartEach},
		{name: "clock of the Primary set at a restart", do: clockOfPrimary},
		{name: "clock of the Secondary set at a restart", stays: true, do: clockOfSecondary},
		{name: "two faults at once", do: killBoth},
		{name: "switched over", moves: true, do: switchOver},
		{name: "switched over while the Secondary is killed", do: switchToKilled},
	}
}

// kill ends a daemon as a crash does.
func (p *game) kill(node string) error {
	p.ended[node] = true
	return p.Node(node).Kill()
}

// stop ends a daemon in good order.
func (p *game) stop(ctx context.Context, node string) error {
	p.ended[node] = true
	return p.Node(node).Stop(ctx)
}

// startAgain starts a daemon that the game has ended.
func (p *game) startAgain(node string) error {
	delete(p.ended, node)
	return p.run(node)
}

// linger lets time pass in a fault.
func (p *game) linger(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// between is a random time, of which the shorter ones are as likely as the longer.
func (p *game) between(least, most time.Duration) time.Duration {
	d := least
	for d < most && p.random.IntN(2) == 0 {
		d *= 2
	}
	return min(most, d+time.Duration(p.random.Int64N(int64(d))))
}

// roles names the Primary, some Secondary and some witness, empty if there is none.
func (p *game) roles(ctx context.Context) (primary, secondary, witness string, err error) {
	primary = p.primary(ctx)
	if primary == "" {
		return "", "", "", errors.New("nobody is Primary")
	}
	nodes := slices.DeleteFunc(p.dataNodes(), func(n string) bool { return n == primary })
	if len(nodes) > 0 {
		secondary = nodes[p.random.IntN(len(nodes))]
	}
	if witnesses := p.names()[len(p.dataNodes()):]; len(witnesses) > 0 {
		witness = witnesses[p.random.IntN(len(witnesses))]
	}
	return primary, secondary, witness, nil
}

// others are all nodes but one.
func (p *game) others(node string) []string {
	return slices.DeleteFunc(p.names(), func(n string) bool { return n == node })
}

// elsewhere waits until another node has answered a write.
func elsewhere(ctx context.Context, found <-chan operation) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	select {
	case <-found:
		return nil
	case <-ctx.Done():
		return errors.New("no other node has answered a write")
	}
}

func killPrimary(ctx context.Context, p *game) error {
	primary, _, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	found := p.history.watch(primary)
	if err := p.kill(primary); err != nil {
		return err
	}
	if err := elsewhere(ctx, found); err != nil {
		return err
	}
	return p.linger(ctx, p.between(time.Millisecond, 2*time.Second))
}

func restartPrimary(ctx context.Context, p *game) error {
	primary, _, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	if err := p.kill(primary); err != nil {
		return err
	}
	if err := p.linger(ctx, p.between(time.Millisecond, 500*time.Millisecond)); err != nil {
		return err
	}
	return p.startAgain(primary)
}

func killSecondary(ctx context.Context, p *game) error {
	_, secondary, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	return p.killFor(ctx, secondary)
}

func killWitness(ctx context.Context, p *game) error {
	_, _, witness, err := p.roles(ctx)
	if err != nil || witness == "" {
		return err
	}
	return p.killFor(ctx, witness)
}

// killFor kills a daemon, and starts it again when writes have gone on without it for a while.
func (p *game) killFor(ctx context.Context, node string) error {
	if err := p.kill(node); err != nil {
		return err
	}
	if err := p.linger(ctx, p.between(time.Millisecond, 2*time.Second)); err != nil {
		return err
	}
	if err := p.servesSoon(ctx); err != nil {
		return err
	}
	return p.startAgain(node)
}

// servesSoon requires that writes go on while a fault lasts.
func (p *game) servesSoon(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	return p.serves(ctx, 20)
}

func freezePrimary(ctx context.Context, p *game) error {
	primary, _, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	return p.freezeFor(ctx, primary, p.between(100*time.Millisecond, 10*time.Second))
}

func freezeSecondary(ctx context.Context, p *game) error {
	_, secondary, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	return p.freezeFor(ctx, secondary, p.between(100*time.Millisecond, 10*time.Second))
}

func (p *game) freezeFor(ctx context.Context, node string, d time.Duration) error {
	if err := p.Node(node).Freeze(); err != nil {
		return err
	}
	return errors.Join(p.linger(ctx, d), p.Node(node).Thaw())
}

// cut makes cuts for a while, during which writes must go on if the time is long, and heals them.
func (p *game) cut(ctx context.Context, goesOn bool, cuts []namespaces.Cut) error {
	if err := p.network.Cut(ctx, cuts...); err != nil {
		return err
	}
	d := p.between(100*time.Millisecond, 4*time.Second)
	if err := p.linger(ctx, d); err != nil {
		return err
	}
	if goesOn {
		if err := p.servesSoon(ctx); err != nil {
			return fmt.Errorf("%v after a cut: %w", d, err)
		}
	}
	return p.network.Heal(ctx)
}

// apart cuts a node off from others, both ways.
func apart(node string, others []string) (cuts []namespaces.Cut) {
	for _, other := range others {
		cuts = append(cuts, namespaces.Both(node, other)...)
	}
	return cuts
}

// silence drops everything that the Primary's host sends or should receive, the client's packets included.
func silence(ctx context.Context, p *game) error {
	primary, _, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	return p.cutUntilElsewhere(ctx, primary, apart(primary, append(p.others(primary), clientHost)))
}

// isolatePrimary leaves the client in touch with the old Primary, which must not answer what is stale.
func isolatePrimary(ctx context.Context, p *game) error {
	primary, _, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	return p.cutUntilElsewhere(ctx, primary, apart(primary, p.others(primary)))
}

func (p *game) cutUntilElsewhere(ctx context.Context, primary string, cuts []namespaces.Cut) error {
	found := p.history.watch(primary)
	if err := p.network.Cut(ctx, cuts...); err != nil {
		return err
	}
	if err := elsewhere(ctx, found); err != nil {
		return err
	}
	if err := p.linger(ctx, p.between(time.Millisecond, 4*time.Second)); err != nil {
		return err
	}
	return p.network.Heal(ctx)
}

func isolateSecondary(ctx context.Context, p *game) error {
	_, secondary, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	return p.cut(ctx, true, apart(secondary, p.others(secondary)))
}

func isolateWitness(ctx context.Context, p *game) error {
	_, _, witness, err := p.roles(ctx)
	if err != nil || witness == "" {
		return err
	}
	return p.cut(ctx, true, apart(witness, p.others(witness)))
}

// cutReplicas requires that the Secondary is removed, and comes back.
func cutReplicas(ctx context.Context, p *game) error {
	primary, secondary, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	from := p.generation()
	p.log("  the leader is %s", p.leader(ctx))
	if err := p.network.Cut(ctx, namespaces.Both(primary, secondary)...); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if err := p.removed(wait, secondary, from); err != nil {
		return err
	}
	if err := p.servesSoon(ctx); err != nil {
		return err
	}
	if err := p.linger(ctx, p.between(100*time.Millisecond, 4*time.Second)); err != nil {
		return err
	}
	return p.network.Heal(ctx)
}

// removed waits until a generation after the given one is without the node.
func (p *game) removed(ctx context.Context, node string, from uint64) error {
	return cluster.WaitFor(ctx, node+" to be removed", func() error {
		if err := p.learn(ctx); err != nil {
			return err
		}
		for _, note := range p.since(from) {
			if !slices.Contains(note.InSync, node) {
				return nil
			}
		}
		return errors.New("the record has it in sync")
	})
}

func cutPrimaryWitness(ctx context.Context, p *game) error {
	primary, _, witness, err := p.roles(ctx)
	if err != nil || witness == "" {
		return err
	}
	return p.cut(ctx, true, namespaces.Both(primary, witness))
}

func cutSecondaryWitness(ctx context.Context, p *game) error {
	_, secondary, witness, err := p.roles(ctx)
	if err != nil || witness == "" {
		return err
	}
	return p.cut(ctx, true, namespaces.Both(secondary, witness))
}

func unheardBySecondary(ctx context.Context, p *game) error {
	primary, secondary, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	return p.cut(ctx, true, []namespaces.Cut{{From: primary, To: secondary}})
}

func secondaryUnheard(ctx context.Context, p *game) error {
	primary, secondary, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	return p.cut(ctx, true, []namespaces.Cut{{From: secondary, To: primary}})
}

func unheard(ctx context.Context, p *game) error {
	primary, _, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	var cuts []namespaces.Cut
	for _, other := range p.others(primary) {
		cuts = append(cuts, namespaces.Cut{From: primary, To: other})
	}
	return p.cutUntilElsewhere(ctx, primary, cuts)
}

func deaf(ctx context.Context, p *game) error {
	primary, _, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	var cuts []namespaces.Cut
	for _, other := range p.others(primary) {
		cuts = append(cuts, namespaces.Cut{From: other, To: primary})
	}
	return p.cut(ctx, false, cuts)
}

// ring lets each node hear the one before it and nobody else.
func ring(ctx context.Context, p *game) error {
	names := p.names()
	var cuts []namespaces.Cut
	for i, from := range names {
		for j, to := range names {
			if i != j && j != (i+1)%len(names) {
				cuts = append(cuts, namespaces.Cut{From: from, To: to})
			}
		}
	}
	return p.cut(ctx, false, cuts)
}

func flapPrimary(ctx context.Context, p *game) error {
	primary, _, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	return p.flap(ctx, apart(primary, p.others(primary)))
}

func flapReplicas(ctx context.Context, p *game) error {
	primary, secondary, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	return p.flap(ctx, namespaces.Both(primary, secondary))
}

func flapAny(ctx context.Context, p *game) error {
	names := p.names()
	i := p.random.IntN(len(names))
	j := (i + 1 + p.random.IntN(len(names)-1)) % len(names)
	cuts := namespaces.Both(names[i], names[j])
	return p.flap(ctx, cuts[:1+p.random.IntN(2)])
}

// flap cuts and heals again and again.
func (p *game) flap(ctx context.Context, cuts []namespaces.Cut) error {
	for range 3 + p.random.IntN(8) {
		if err := p.network.Cut(ctx, cuts...); err != nil {
			return err
		}
		if err := p.linger(ctx, p.between(50*time.Millisecond, 500*time.Millisecond)); err != nil {
			return err
		}
		if err := p.network.Heal(ctx); err != nil {
			return err
		}
		if err := p.linger(ctx, p.between(50*time.Millisecond, 500*time.Millisecond)); err != nil {
			return err
		}
	}
	return nil
}

// shuffled are all nodes in some order.
func (p *game) shuffled() []string {
	names := p.names()
	p.random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names
}

func killAll(ctx context.Context, p *game) error {
	order := p.shuffled()
	for _, node := range order {
		if err := p.kill(node); err != nil {
			return err
		}
	}
	return p.startAll(ctx, order)
}

func stopAll(ctx context.Context, p *game) error {
	order := p.shuffled()
	for _, node := range order {
		stop, cancel := context.WithTimeout(ctx, settleTimeout)
		err := p.stop(stop, node)
		cancel()
		if err != nil {
			return fmt.Errorf("stop in the order %v: %w", order, err)
		}
	}
	return p.startAll(ctx, order)
}

// startAll starts all nodes in an order of its own.
func (p *game) startAll(ctx context.Context, ended []string) error {
	order := p.shuffled()
	p.log("  ended in the order %s, started in the order %s", strings.Join(ended, " "), strings.Join(order, " "))
	for _, node := range order {
		if err := p.startAgain(node); err != nil {
			return err
		}
		if err := p.linger(ctx, p.between(time.Millisecond, 2*time.Second)); err != nil {
			return err
		}
	}
	return nil
}

// restartEach restarts one node after the other, each in good order or not, without waiting for more than that the cluster works.
func restartEach(ctx context.Context, p *game) error {
	for _, node := range p.shuffled() {
		stop, cancel := context.WithTimeout(ctx, settleTimeout)
		var err error
		if p.random.IntN(2) == 0 {
			err = p.stop(stop, node)
		} else {
			err = p.kill(node)
		}
		cancel()
		if err != nil {
			return err
		}
		if err := p.linger(ctx, p.between(time.Millisecond, time.Second)); err != nil {
			return err
		}
		if err := p.startAgain(node); err != nil {
			return err
		}
		if err := p.settle(ctx); err != nil {
			return fmt.Errorf("after the restart of %s: %w", node, err)
		}
	}
	return nil
}

func clockOfPrimary(ctx context.Context, p *game) error {
	primary, _, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	return p.setClock(ctx, primary)
}

func clockOfSecondary(ctx context.Context, p *game) error {
	_, secondary, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	return p.setClock(ctx, secondary)
}

// setClock restarts a daemon in a time namespace: the clocks that leases and time-outs go by then show another time.
func (p *game) setClock(ctx context.Context, node string) error {
	offset := strconv.FormatInt(p.random.Int64N(1_000_000_000), 10)
	p.Node(node).Before = []string{"unshare", "-T", "--monotonic", offset, "--boottime", offset}
	if err := p.kill(node); err != nil {
		return err
	}
	if err := p.linger(ctx, p.between(time.Millisecond, time.Second)); err != nil {
		return err
	}
	return p.startAgain(node)
}

// killBoth kills the Primary, and another node before all is well again.
func killBoth(ctx context.Context, p *game) error {
	primary, secondary, witness, err := p.roles(ctx)
	if err != nil {
		return err
	}
	second := secondary
	if witness != "" && p.random.IntN(2) == 0 {
		second = witness
	}
	if err := p.kill(primary); err != nil {
		return err
	}
	if err := p.linger(ctx, p.between(time.Millisecond, 2*time.Second)); err != nil {
		return err
	}
	if err := p.kill(second); err != nil {
		return err
	}
	return p.linger(ctx, p.between(time.Millisecond, 2*time.Second))
}

func switchOver(ctx context.Context, p *game) error {
	primary, secondary, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	_, err = p.Node(primary).MustSucceed(ctx, "switch", resource, "--to", secondary)
	return err
}

// switchToKilled kills the node that takes over at some moment of a switch, which may succeed or fail.
func switchToKilled(ctx context.Context, p *game) error {
	primary, secondary, _, err := p.roles(ctx)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { // ends with the command, which is bounded
		_, err := p.Node(primary).Command(ctx, "switch", resource, "--to", secondary)
		ended <- err
	}()
	err = p.linger(ctx, time.Duration(p.random.Int64N(int64(100*time.Millisecond))))
	return errors.Join(err, p.kill(secondary), <-ended)
}
