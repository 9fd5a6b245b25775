package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"duet/internal/config"
	"duet/internal/control"
)

// loadEnough is how many writes the load makes before the next stage begins.
const loadEnough = 2000

func (d *demo) startCluster(ctx context.Context) error {
	d.note("duet --dir %s init --name n1 && duet run", d.n1.dir)
	if _, err := d.n1.command(ctx, "init", "--name", "n1", "--listen", d.n1.address, "--nbd", d.n1.nbd); err != nil {
		return err
	}
	if err := errors.Join(d.n1.configure(), d.n1.startReady(ctx)); err != nil {
		return err
	}
	for _, n := range []*demoNode{d.n2, d.w1} {
		if err := d.joinNode(ctx, n); err != nil {
			return err
		}
	}
	return waitFor(ctx, "all three nodes to be members", func(ctx context.Context) error {
		nodes, err := d.n1.client.NodeList(ctx)
		if err != nil {
			return err
		}
		members := 0
		for _, n := range nodes {
			if n.Voter && !n.Pending && (n.Reachable || n.Self) {
				members++
			}
		}
		if members != len(d.nodes()) {
			return fmt.Errorf("%d of them are", members)
		}
		return nil
	})
}

// joinNode makes a token, as `duet token` does, and uses it.
func (d *demo) joinNode(ctx context.Context, n *demoNode) error {
	token, err := d.n1.client.Token(ctx, &control.TokenRequest{TTL: control.Duration(demoTimeout)})
	if err != nil {
		return err
	}
	arguments := []string{"join", "--name", n.name, "--listen", n.address}
	if n.nbd == "" {
		arguments = append(arguments, "--witness")
	} else {
		arguments = append(arguments, "--nbd", n.nbd)
	}
	d.note("duet --dir %s join --name %s TOKEN && duet run", n.dir, n.name)
	if _, err := n.command(ctx, append(arguments, token.Token)...); err != nil {
		return err
	}
	return errors.Join(n.configure(), n.startReady(ctx))
}

func (d *demo) createResource(ctx context.Context) error {
	d.note("duet resource create %s --size %s --on n1=%s --on n2=%s", demoResource, config.FormatSize(demoSizeBytes), d.n1.disk, d.n2.disk)
	_, err := d.n1.client.ResourceCreate(ctx, &control.ResourceCreateRequest{
		Name: demoResource, SizeBytes: demoSizeBytes,
		Replicas: []control.Replica{{Node: "n1", Path: d.n1.disk}, {Node: "n2", Path: d.n2.disk}},
	})
	if err != nil {
		return err
	}
	if err := d.waitInSync(ctx); err != nil {
		return err
	}
	return d.showVerdict(ctx, d.n1)
}

// waitInSync waits until both nodes say that both are in sync.
func (d *demo) waitInSync(ctx context.Context) error {
	for _, n := range []*demoNode{d.n1, d.n2} {
		err := waitFor(ctx, n.name+" to be in sync", func(ctx context.Context) error {
			if !n.running() {
				return &hopeless{fmt.Errorf("its daemon ended: %s", n.lastWords())}
			}
			if d.load != nil && d.load.failure() != nil {
				return &hopeless{d.load.failure()}
			}
			r, err := n.resource(ctx)
			if err != nil {
				return err
			}
			return inSync(r)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// inSync says what is missing until a node calls both replicas UpToDate.
func inSync(r *control.ResourceStatus) error {
	switch {
	case len(r.InSync) != 2:
		return fmt.Errorf("in sync are %v: %s", r.InSync, r.Verdict)
	case len(r.Devices) != 1 || r.Devices[0].DiskState != control.DiskUpToDate:
		return fmt.Errorf("its disk is not UpToDate: %s", r.Verdict)
	case len(r.Connections) != 1 || len(r.Connections[0].PeerDevices) != 1:
		return fmt.Errorf("it has no peer: %s", r.Verdict)
	case r.Connections[0].PeerDevices[0].PeerDiskState != control.DiskUpToDate:
		return fmt.Errorf("the peer's disk is not UpToDate: %s", r.Verdict)
	}
	return nil
}

func (d *demo) showVerdict(ctx context.Context, n *demoNode) error {
	r, err := n.resource(ctx)
	if err != nil {
		return err
	}
	d.note("%s, seen from %s: %s", r.Name, n.name, r.Verdict)
	return nil
}

func (d *demo) startLoad(ctx context.Context) error {
	began := time.Now()
	if err := d.beginLoad(ctx, d.n1); err != nil {
		return err
	}
	if err := d.waitWrites(ctx, loadEnough); err != nil {
		return err
	}
	d.note("%d workers, 4 KiB each: %.0f writes a second, each on both nodes before it is acknowledged",
		loadWorkers, loadEnough/time.Since(began).Seconds())
	return nil
}

func (d *demo) beginLoad(ctx context.Context, n *demoNode) error {
	load, err := beginLoad(ctx, d.ledger, n.nbd)
	if err == nil {
		d.load = load
	}
	return err
}

func (d *demo) endLoad() error {
	load := d.load
	d.load = nil
	return load.end()
}

// waitWrites waits for so many more acknowledged writes of the load.
func (d *demo) waitWrites(ctx context.Context, count uint64) error {
	target := d.ledger.count() + count
	return waitFor(ctx, fmt.Sprintf("%d more acknowledged writes", count), func(context.Context) error {
		if err := d.load.failure(); err != nil {
			return &hopeless{err}
		}
		if missing := int64(target - d.ledger.count()); missing > 0 {
			return fmt.Errorf("%d are missing", missing)
		}
		return nil
	})
}

func (d *demo) killSecondary(ctx context.Context) error {
	d.ledger.markPause()
	if err := d.n2.kill(); err != nil {
		return err
	}
	err := waitFor(ctx, "n1 to go on alone", func(ctx context.Context) error {
		r, err := d.n1.resource(ctx)
		if err == nil && !slices.Equal(r.InSync, []string{"n1"}) {
			err = fmt.Errorf("in sync are %v: %s", r.InSync, r.Verdict)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := d.waitWrites(ctx, loadEnough); err != nil {
		return err
	}
	d.note("writes paused for %d ms, until the cluster had agreed that n2 is out", d.ledger.pause().Milliseconds())
	return d.showVerdict(ctx, d.n1)
}

// resyncSeen is what was seen of a resync while waiting for its end.
type resyncSeen struct {
	outOfSyncKiB, totalKiB uint64
}

func (s *resyncSeen) look(r *control.ResourceStatus) {
	for _, c := range r.Connections {
		for _, peer := range c.PeerDevices {
			s.outOfSyncKiB = max(s.outOfSyncKiB, peer.OutOfSyncKiB)
		}
	}
	if r.Resync != nil {
		s.totalKiB = max(s.totalKiB, r.Resync.TotalKiB)
	}
}

// restartSecondary brings n2 back under load. The resync must be about what changed, not about the device.
func (d *demo) restartSecondary(ctx context.Context) error {
	if err := d.returns(ctx, d.n2, d.n1); err != nil {
		return err
	}
	if err := d.waitWrites(ctx, 1); err != nil {
		return err
	}
	return d.endLoad()
}

// returns starts a node again and waits until the other one has brought it up to date.
func (d *demo) returns(ctx context.Context, n, source *demoNode) error {
	var seen resyncSeen
	r, err := source.resource(ctx)
	if err != nil {
		return err
	}
	seen.look(r)
	began := time.Now()
	if err := n.start(); err != nil {
		return err
	}
	err = waitFor(ctx, n.name+" to be resynced", func(ctx context.Context) error {
		r, err := source.resource(ctx)
		if err != nil {
			return err
		}
		seen.look(r)
		return inSync(r)
	})
	if err != nil {
		return err
	}
	if err := d.waitInSync(ctx); err != nil {
		return err
	}
	moved := max(seen.totalKiB, seen.outOfSyncKiB)
	d.note("%d KiB of %d KiB were out of sync; %s is UpToDate %.1f s after its start", moved, demoSizeBytes>>10, n.name, time.Since(began).Seconds())
	if moved >= demoSizeBytes>>10 {
		return errors.New("the resync was about the whole device")
	}
	return d.showVerdict(ctx, source)
}

// killPrimary makes the disk of n1 hold writes that n2 has never seen, and that n1 can't have acknowledged.
func (d *demo) killPrimary(ctx context.Context) (err error) {
	if err := d.n2.freeze(ctx); err != nil {
		return err
	}
	b, err := beginBurst(ctx, d.ledger, d.n1.nbd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := d.waitBurst(ctx, b); err != nil {
		return errors.Join(err, d.n1.kill(), d.n2.thaw())
	}
	r, err := d.n1.resource(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(r.InSync, "n2") {
		return errors.New("n1 has given up n2 already: this machine is too slow for the demonstration")
	}
	if err := errors.Join(d.n1.kill(), b.close()); err != nil {
		return err
	}
	if n := b.acknowledged.Load(); n > 0 {
		d.breach("%d writes were acknowledged while n2 could not have had them", n)
	} else {
		d.note("none of the %d writes was acknowledged: n2 did not have them", burstWrites)
	}
	return d.n2.thaw()
}

// waitBurst waits until the Primary's disk is far ahead of the Secondary's.
func (d *demo) waitBurst(ctx context.Context, b *burst) error {
	ahead := 0
	err := waitFor(ctx, "n1's disk to be ahead", func(context.Context) error {
		one, err := b.arrived(d.n1.disk)
		if err != nil {
			return err
		}
		two, err := b.arrived(d.n2.disk)
		if err != nil {
			return err
		}
		if ahead = one - two; ahead < burstAhead {
			return fmt.Errorf("it holds %d writes that n2's does not, %d are wanted", ahead, burstAhead)
		}
		return nil
	})
	if err == nil {
		d.note("n1's disk holds %s that n2's does not", kib(uint64(ahead*burstWriteBytes>>10)))
	}
	return err
}

// takeOver waits until n2 is Primary, which it becomes by itself once n1 is gone.
func (d *demo) takeOver(ctx context.Context) error {
	began := time.Now()
	err := waitFor(ctx, "n2 to become Primary", func(ctx context.Context) error {
		r, err := d.n2.resource(ctx)
		if err == nil && r.Role != control.RolePrimary {
			return errors.New(cmp.Or(r.Takeover, "it is Secondary"))
		}
		return err
	})
	if err != nil {
		return err
	}
	d.note("n2 has become Primary by itself, %.2f s after it went on", time.Since(began).Seconds())
	undecided := d.ledger.unanswered()
	found, err := d.readBack(ctx, d.n2.nbd)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		d.breach("%d blocks are wrong: %v", len(found), found[0])
	} else {
		d.note("all %d acknowledged writes are there; %d unanswered blocks are old or new, and whole", d.ledger.count(), undecided)
	}
	return d.writeMore(ctx)
}

// writeMore shows that the device goes on on n2.
func (d *demo) writeMore(ctx context.Context) error {
	if err := d.beginLoad(ctx, d.n2); err != nil {
		return err
	}
	if err := d.waitWrites(ctx, loadEnough); err != nil {
		return err
	}
	if err := d.endLoad(); err != nil {
		return err
	}
	return d.showVerdict(ctx, d.n2)
}

func (d *demo) restartPrimary(ctx context.Context) error { return d.returns(ctx, d.n1, d.n2) }

// compare ends the cluster and looks at what is on the disks themselves.
func (d *demo) compare(ctx context.Context) error {
	for _, n := range []*demoNode{d.n1, d.n2} {
		r, err := n.resource(ctx)
		if err != nil {
			return err
		}
		if r.Role == control.RolePrimary {
			if _, err := n.client.Secondary(ctx, demoResource); err != nil {
				return err
			}
			d.note("duet --dir %s secondary %s", n.dir, demoResource)
		}
	}
	for _, n := range []*demoNode{d.w1, d.n1, d.n2} {
		if err := n.stop(ctx); err != nil {
			return err
		}
	}
	report, err := compareDisks(d.ledger, d.n1.disk, d.n2.disk)
	if err != nil {
		return err
	}
	if failure := report.failure(); failure != nil {
		d.breach("%v", failure)
		return nil
	}
	d.note("the disks are identical, and each of the %d blocks ever written holds what it must", report.written)
	return nil
}

// startAgain is for --keep: the cluster as it was, with n1 as Primary.
func (d *demo) startAgain(ctx context.Context) error {
	for _, n := range d.nodes() {
		if err := n.start(); err != nil {
			return err
		}
	}
	return waitFor(ctx, "n1 to become Primary", func(ctx context.Context) error {
		_, err := d.n1.client.Primary(ctx, demoResource, &control.PrimaryRequest{})
		return err
	})
}
