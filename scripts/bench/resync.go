package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"duet/tests/cluster"
)

// The ways of copying that are compared. nbdcopy is asked to flush too, since a resync ends with durable data.
const (
	wayResync   = "duet resync"
	wayFile     = "nbdcopy FILE FILE"
	wayFlush    = "nbdcopy --flush FILE FILE"
	wayTCP      = "nbdcopy --flush TCP TCP"
	resyncGoal  = 0.80
	resyncTries = 3

	// resyncPoll is how often the progress is asked for. Asking costs a process each time, on the same processors.
	resyncPoll = 100 * time.Millisecond
	// resyncFactor makes the copy long enough, compared with the poll interval and the start of a process.
	resyncFactor = 2
)

var copyWays = []string{wayResync, wayFile, wayFlush, wayTCP}

// measureResync copies one filled file to an empty one in every way, a few times.
func (b *bench) measureResync(ctx context.Context) error {
	if err := b.stopServers(); err != nil {
		return err
	}
	source := filepath.Join(b.dir, "copy-source.img")
	sizeBytes := b.config.sizeBytes * resyncFactor
	if err := fill(source, sizeBytes, 2); err != nil {
		return err
	}
	for range min(b.config.rounds, resyncTries) {
		for _, way := range copyWays {
			elapsed, err := b.copyOnce(ctx, way, source)
			if err != nil {
				return fmt.Errorf("%s: %w", way, err)
			}
			speed := float64(sizeBytes) / elapsed.Seconds()
			b.results.addCopy(way, speed)
			fmt.Fprintf(os.Stderr, "%-26s %7.0f MB/s\n", way, speed/1e6)
		}
	}
	return nil
}

// copyOnce copies in one way, to a file that exists and is all holes, and returns how long it took.
func (b *bench) copyOnce(ctx context.Context, way, source string) (_ time.Duration, err error) {
	dir, err := os.MkdirTemp(b.dir, "copy-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if way == wayResync {
		return b.resyncOnce(ctx, dir, source)
	}
	destination := filepath.Join(dir, "destination.img")
	if err := createHoles(destination, b.config.sizeBytes*resyncFactor); err != nil {
		return 0, err
	}
	if err := syncFileSystem(b.dir); err != nil {
		return 0, err
	}
	switch way {
	case wayFile:
		return timed(func() error { return runNbdcopy(ctx, source, destination) })
	case wayFlush:
		return timed(func() error { return runNbdcopy(ctx, "--flush", source, destination) })
	}
	return copyOverTCP(ctx, dir, source, destination)
}

func timed(work func() error) (time.Duration, error) {
	begin := time.Now()
	err := work()
	return time.Since(begin), err
}

// copyOverTCP has both files behind an nbdkit each.
func copyOverTCP(ctx context.Context, dir, source, destination string) (elapsed time.Duration, err error) {
	addresses, err := cluster.FreeAddresses("127.0.0.1", 2)
	if err != nil {
		return 0, err
	}
	for i, path := range []string{source, destination} {
		process, err := startNbdkit(path, addresses[i], filepath.Join(dir, "log"))
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, process.Kill()) }()
		if err := waitAnswering(ctx, "nbd://"+addresses[i]); err != nil {
			return 0, err
		}
	}
	return timed(func() error {
		return runNbdcopy(ctx, "--flush", "nbd://"+addresses[0], "nbd://"+addresses[1])
	})
}

// resyncOnce makes a cluster and a resource on one filled and one empty file, both older than the resource, so that
// all of it has to be compared and sent. The time counts from the first sign of the resync to the end of the last.
func (b *bench) resyncOnce(ctx context.Context, dir, source string) (elapsed time.Duration, err error) {
	d := &duet{label: "duet", dir: dir, insecure: true, config: b.config}
	if err := d.startCluster(ctx); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	const resource = "resync"
	sizeBytes := b.config.sizeBytes * resyncFactor
	// A link gives the cluster the file that all other ways read, without a copy of it in the page cache.
	if err := os.Link(source, d.cluster.Disk("a", resource)); err != nil {
		return 0, err
	}
	if err := createHoles(d.cluster.Disk("b", resource), sizeBytes); err != nil {
		return 0, err
	}
	if err := syncFileSystem(b.dir); err != nil {
		return 0, err
	}
	_, err = d.cluster.Nodes[0].MustSucceed(ctx, "resource", "create", resource,
		"--size", strconv.FormatInt(sizeBytes, 10), "--force",
		"--on", "a="+d.cluster.Disk("a", resource), "--on", "b="+d.cluster.Disk("b", resource))
	if err != nil {
		return 0, err
	}
	return timeResync(ctx, d.cluster, resource)
}

// timeResync watches `duet resync status` until it is over.
func timeResync(ctx context.Context, c *cluster.Cluster, resource string) (time.Duration, error) {
	begin := time.Now()
	ticker := time.NewTicker(resyncPoll)
	defer ticker.Stop()
	seen := false
	for {
		status, err := c.Nodes[0].ResyncStatus(ctx, resource)
		if err != nil {
			return 0, err
		}
		active := status.State != "none"
		seen = seen || active
		if !active && seen {
			elapsed := time.Since(begin)
			return elapsed, c.WaitInSync(ctx, resource)
		}
		if !seen && time.Since(begin) > startTimeout {
			return 0, errors.New("no resync was seen")
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-ticker.C:
		}
	}
}

// createHoles makes a file of that size that has no data.
func createHoles(path string, sizeBytes int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(sizeBytes), f.Close())
}
