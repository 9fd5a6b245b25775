package tests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"duet/internal/config"
	"duet/tests/cluster"
	"duet/tests/forgetful"
)

// powerBlocks is the size of the device in blocks: small, so that most blocks are written several times.
const powerBlocks = 2048

// powerScenario is a cluster whose nodes keep all they have on filesystems that lose power.
type powerScenario struct {
	*scenario
	mounts map[string]*forgetful.FS
	ledger *ledger
}

// startForgetful starts a cluster with a resource r0, in sync. A sabotage is a bug to put in.
func startForgetful(t *testing.T, sabotage string) *powerScenario {
	t.Helper()
	if err := forgetful.Available(); err != nil {
		t.Skip(err) // also in CI: no package brings /dev/fuse
	}
	p := &powerScenario{mounts: make(map[string]*forgetful.FS), ledger: newLedger(powerBlocks)}
	p.scenario = start(t, func(c *cluster.Config) {
		c.RunArguments = []string{"--supervisor=false"} // it would outlive the loss of power, and keep the filesystem in use
		c.Place = func(node string) string { return filepath.Join(c.Dir, node+".mount") }
		for _, node := range []string{"a", "b", "witness"} {
			p.mounts[node] = mountForgetful(t, c.Place(node))
		}
		if sabotage != "" {
			c.Binary = program(t, "sabotage")
			c.Environment = []string{"DUET_SABOTAGE=" + sabotage}
		}
	})
	p.create("r0", fmt.Sprintf("%dKiB", powerBlocks*blockBytes/1024))
	return p
}

func mountForgetful(t *testing.T, path string) *forgetful.FS {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := forgetful.Mount(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// powerCut ends the daemons at once and loses what their machines had not made durable. Their machines boot anew.
func (p *powerScenario) powerCut(seed uint64, nodes ...*cluster.Node) {
	p.t.Helper()
	failures := make([]error, len(nodes))
	var kills sync.WaitGroup
	for i, n := range nodes {
		if n.Running() {
			failures[i] = n.Process().Signal(syscall.SIGKILL)
		}
		// Whoever waits for a stalled disk has been killed already and does not see an answer.
		p.mounts[n.Name].LetGo()
		kills.Go(func() { failures[i] = errors.Join(failures[i], n.Kill()) })
	}
	kills.Wait()
	if err := errors.Join(failures...); err != nil {
		p.t.Fatal(err)
	}
	for i, n := range nodes {
		loss, err := p.mounts[n.Name].PowerCut(seed<<8 | uint64(i))
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Logf("seed %d: %s loses power: %+v", seed, n.Name, loss)
		n.Environment = append(n.Environment, fmt.Sprintf("%s=%s-%d", config.BootIDVariable, n.Name, len(n.Environment)))
	}
}

// powerOn starts the daemons, all before the first is waited for: alone none finds a majority.
func (p *powerScenario) powerOn(nodes ...*cluster.Node) {
	p.t.Helper()
	p.within(settleTimeout, func(ctx context.Context) error {
		for _, n := range nodes {
			if err := n.Run(); err != nil {
				return err
			}
		}
		for _, n := range nodes {
			if err := n.WaitReady(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// blackout is one loss of power of all nodes.
type blackout struct {
	seed   uint64
	before *cluster.Node // Primary until then
	after  *cluster.Node // made Primary when the power is back
	again  int           // how often the power fails once more as soon as there is a Primary: while it resyncs
}

// everybodyLosesPower cuts the power of all under load and promotes a node when it is back. The error says what is lost.
func (p *powerScenario) everybodyLosesPower(b blackout) error {
	p.t.Helper()
	l := p.ledger.begin(p.t, b.before.URI("r0"))
	l.wait(p.t, 300+int(b.seed*97%400), 4)
	for cut := range b.again + 1 {
		p.powerCut(b.seed+uint64(cut)<<32, p.Nodes...)
		<-l.done
		p.powerOn(p.Nodes...)
		p.promote(b.after, "r0")
	}
	return p.ledger.check(p.t, b.after.URI("r0"), promiseFlushed)
}

// agree ends a round: the replicas are in sync and identical, and what is there is what is expected from now on.
func (p *powerScenario) agree(primary *cluster.Node) {
	p.t.Helper()
	p.inSync("r0")
	p.ledger.settle(p.t, primary.URI("r0"))
	p.identical("r0")
}

// in is the scenario for a part of the test.
func (p *powerScenario) in(t *testing.T) *powerScenario {
	s := *p.scenario
	s.t = t
	return &powerScenario{scenario: &s, mounts: p.mounts, ledger: p.ledger}
}

// The power of all nodes fails at once, under load, again and again. What an acknowledged FLUSH or FUA covers is there
// on whichever replica becomes Primary, nothing is there that was not written, and the replicas become identical.
func TestPowerCutOfAllNodes(t *testing.T) {
	p := startForgetful(t, "")
	primary, other := p.Node("a"), p.Node("b")
	for seed := range uint64(repeats(t, 12)) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			p, before := p.in(t), primary
			// A write with FUA makes all of the disk's file durable (see package forgetful), so most rounds go without.
			p.ledger.fuaEvery, p.ledger.flushEvery = 0, 40
			again := 0
			switch seed % 4 {
			case 1:
				p.ledger.flushEvery = 150
			case 2:
				p.ledger.fuaEvery = 50
			case 3:
				again = 2
			}
			if seed%3 != 1 { // else the Primary stays where it was
				primary, other = other, primary
			}
			if err := p.everybodyLosesPower(blackout{seed, before, primary, again}); err != nil {
				t.Fatal(err)
			}
			p.agree(primary)
		})
		if t.Failed() {
			return
		}
	}
}

// What a command has done before it returned stays done: the cluster, its members and its resource.
func TestPowerCutAfterCommands(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			p := startForgetful(t, "")
			p.powerCut(seed, p.Nodes...)
			p.powerOn(p.Nodes...)
			p.promote(p.Node("b"), "r0")
			l := p.ledger.begin(t, p.Node("b").URI("r0"))
			l.wait(t, 100, 1)
			l.end(t)
			if err := p.ledger.check(t, p.Node("b").URI("r0"), promiseAcknowledged); err != nil {
				t.Fatal(err)
			}
			p.agree(p.Node("b"))
		})
	}
}

// The power fails again and again while the nodes start, at any step of it: each time the disk of one stops after so
// many changes, and when it does the power of all fails. Starting is when counters of incarnations and attachments go up, votes are cast and roles change.
func TestPowerCutWhileStarting(t *testing.T) {
	p := startForgetful(t, "")
	b := p.Node("b")
	l := p.ledger.begin(t, p.Node("a").URI("r0"))
	l.wait(t, 300, 3)
	p.powerCut(1000, p.Nodes...)
	<-l.done
	changes := make(map[string]int) // of a whole start
	for _, n := range p.Nodes {
		changes[n.Name] = -p.mounts[n.Name].Changes()
	}
	p.powerOn(p.Nodes...)
	for _, n := range p.Nodes {
		changes[n.Name] += p.mounts[n.Name].Changes()
	}
	p.powerCut(1001, p.Nodes...)
	for seed := range uint64(repeats(t, 12)) {
		random := rand.New(rand.NewPCG(seed, 2))
		victim := p.Nodes[random.IntN(len(p.Nodes))]
		stall := p.mounts[victim.Name].StallAfter(random.IntN(changes[victim.Name]))
		for _, n := range p.Nodes {
			if err := n.Run(); err != nil {
				t.Fatal(err)
			}
		}
		stalled(stall)
		p.powerCut(seed, p.Nodes...)
	}
	p.powerOn(p.Nodes...)
	p.promote(b, "r0")
	if err := p.ledger.check(t, b.URI("r0"), promiseFlushed); err != nil {
		t.Fatal(err)
	}
	p.agree(b)
}

// stalled waits for a disk to stall, or for the time after which a start that needed fewer changes is surely over.
func stalled(stall <-chan struct{}) {
	select {
	case <-stall:
	case <-time.After(time.Second):
	}
}

// One node loses its power and the others go on: no acknowledged write is lost, flushed or not, and the node that lost
// what it had only in its page cache gets it again.
func TestPowerCutOfOneNode(t *testing.T) {
	p := startForgetful(t, "")
	a, b, witness := p.Node("a"), p.Node("b"), p.Node("witness")
	p.ledger.flushEvery = 1000
	l := p.ledger.begin(t, a.URI("r0"))
	l.wait(t, 300, 0)
	p.powerCut(1, b)
	l.wait(t, 300, 0)
	p.powerOn(b)
	p.inSync("r0")
	l.wait(t, 300, 0)
	p.powerCut(2, witness)
	l.wait(t, 300, 0)
	p.powerOn(witness)
	l.wait(t, 300, 0)

	p.powerCut(3, a)
	<-l.done
	p.promote(b, "r0")
	if err := p.ledger.check(t, b.URI("r0"), promiseAcknowledged); err != nil {
		t.Fatal(err)
	}
	l = p.ledger.begin(t, b.URI("r0"))
	l.wait(t, 100, 0)
	p.powerOn(a)
	p.inSync("r0")
	l.end(t)
	if err := p.ledger.check(t, b.URI("r0"), promiseAcknowledged); err != nil {
		t.Fatal(err)
	}
	p.agree(b)
}

// The check would notice: a Secondary that answers a flush without flushing loses what was promised.
func TestPowerCutFindsASkippedFlush(t *testing.T) {
	p := startForgetful(t, "skip-peer-flush")
	a, b := p.Node("a"), p.Node("b")
	for seed := range uint64(5) {
		err := p.everybodyLosesPower(blackout{seed: seed, before: a, after: b})
		if err != nil {
			t.Logf("found with seed %d: %v", seed, err)
			return
		}
		a, b = b, a
		p.agree(a)
	}
	t.Error("five power cuts did not show that the Secondary does not flush")
}

// When nothing happens any more, a node has no file whose name a power cut may take away: a file that is synced, but not
// its directory, can be lost as a whole. The names that stand for a running daemon don't matter.
func TestNamesAreDurable(t *testing.T) {
	p := startForgetful(t, "")
	l := p.ledger.begin(t, p.Node("a").URI("r0"))
	l.wait(t, 100, 2)
	l.end(t)
	for _, n := range p.Nodes {
		for _, name := range p.mounts[n.Name].UnsyncedNames() {
			switch filepath.Base(name) {
			case "lock", "control.sock", "nbd.sock":
			default:
				t.Errorf("a power cut may take %s from %s", name, n.Name)
			}
		}
	}
}
