package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"duet/tests/cluster"
)

// resourceName is the name of duet's resource in all measurements.
const resourceName = "bench"

// duet is a cluster of two data nodes and a witness, all on loopback.
type duet struct {
	label    string
	dir      string
	insecure bool // links in plaintext
	config   *config
	cluster  *cluster.Cluster
}

func (d *duet) name() string { return d.label }
func (d *duet) uri() string  { return d.cluster.Nodes[0].URI(resourceName) }

func (d *duet) start(ctx context.Context) error {
	if err := d.startCluster(ctx); err != nil {
		return err
	}
	if err := d.cluster.CreateResource(ctx, resourceName, strconv.FormatInt(d.config.sizeBytes, 10)); err != nil {
		return errors.Join(err, errors.New(d.cluster.Tails(15)))
	}
	// The data go in through the front door: duet must know of them.
	source := filepath.Join(d.dir, "source.img")
	if err := fill(source, d.config.sizeBytes, 1); err != nil {
		return err
	}
	if err := runNbdcopy(ctx, source, d.uri()); err != nil {
		return err
	}
	return os.Remove(source)
}

// startCluster builds the program, unless one is given, and starts the nodes.
func (d *duet) startCluster(ctx context.Context) (err error) {
	binary := d.config.binary
	if binary == "" {
		if binary, err = cluster.Build(ctx, d.dir, cluster.BuildOptions{}); err != nil {
			return err
		}
	}
	d.cluster, err = cluster.Start(ctx, cluster.Config{
		Binary: binary, Dir: d.dir, DataNodes: 2, Witness: true, Insecure: d.insecure,
	})
	return err
}

func (d *duet) stop() error {
	if d.cluster == nil {
		return nil
	}
	return d.cluster.Close()
}

// runNbdcopy copies between files and NBD URIs.
func runNbdcopy(ctx context.Context, arguments ...string) error {
	output, err := exec.CommandContext(ctx, "nbdcopy", arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("nbdcopy: %w: %s", err, strings.TrimSpace(string(output)))
	}
	return nil
}
