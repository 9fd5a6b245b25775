package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// The two halves of a measurement of what a resync costs the application, and what the second may be of the first.
const (
	workIdle    = "idle"
	workDuring  = "during a resync"
	duringGoal  = 2.0
	duringTries = 3
	// duringFactor makes the resync longer than the work.
	duringFactor = 4
)

// measureDuring compares 4 KiB random writes, one at a time, without and with a resync of the whole device at full speed.
func (b *bench) measureDuring(ctx context.Context) (err error) {
	if err := b.stopServers(); err != nil {
		return err
	}
	big := *b.config
	big.sizeBytes *= duringFactor
	d := &duet{label: "duet", dir: filepath.Join(b.dir, "during"), insecure: true, config: &big}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	if err := d.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	for round := range min(b.config.rounds, duringTries) {
		if err := b.duringOnce(ctx, d, byte(10+round)); err != nil {
			return err
		}
	}
	return nil
}

// duringOnce measures the work alone, writes the whole device anew while the peer is away, and measures again while it
// is brought up to date.
func (b *bench) duringOnce(ctx context.Context, d *duet, seed byte) error {
	node, work := d.cluster.Nodes[0], allRows[0]
	idle, err := measure(ctx, work, d.uri(), d.config)
	if err != nil {
		return err
	}
	if _, err := node.MustSucceed(ctx, "disconnect", resourceName); err != nil {
		return err
	}
	source := filepath.Join(d.dir, "source.img")
	if err := fill(source, d.config.sizeBytes, seed); err != nil {
		return err
	}
	if err := errors.Join(runNbdcopy(ctx, "--flush", source, d.uri()), os.Remove(source), syncFileSystem(b.dir)); err != nil {
		return err
	}
	type outcome struct {
		measurement
		error
	}
	result := make(chan outcome, 1) // the work goes on before the resync begins, during the second that does not count
	go func() {
		m, err := fio(ctx, work, d.uri(), d.config)
		result <- outcome{m, err}
	}()
	if _, err := node.MustSucceed(ctx, "connect", resourceName); err != nil {
		return errors.Join(err, (<-result).error)
	}
	if err := waitResync(ctx, d); err != nil {
		return errors.Join(err, (<-result).error)
	}
	begin := time.Now()
	before, err := node.ResyncStatus(ctx, resourceName)
	during := <-result
	if err := errors.Join(err, during.error); err != nil {
		return err
	}
	after, err := node.ResyncStatus(ctx, resourceName)
	if err != nil {
		return err
	}
	if after.State == "none" {
		return errors.New("the resync ended before the measurement: give a larger --size")
	}
	speed := float64(after.DoneKiB-before.DoneKiB) * 1024 / time.Since(begin).Seconds()
	b.results.addDuring(idle, during.measurement, speed)
	fmt.Fprintf(os.Stderr, "%-16s %s\n%-16s %s, resync %.0f MB/s\n", workIdle, idle, workDuring, during.measurement, speed/1e6)
	return d.cluster.WaitInSync(ctx, resourceName)
}

// waitResync waits until blocks are copied.
func waitResync(ctx context.Context, d *duet) error {
	ticker := time.NewTicker(resyncPoll)
	defer ticker.Stop()
	limit := time.After(startTimeout)
	for {
		status, err := d.cluster.Nodes[0].ResyncStatus(ctx, resourceName)
		if err != nil {
			return err
		}
		if status.State == "running" {
			return nil
		}
		select {
		case <-limit:
			return errors.New("no resync was seen: state " + strconv.Quote(status.State))
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
