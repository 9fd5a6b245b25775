package main

import (
	"context"
	"net"
	"path/filepath"

	"duet/tests/cluster"
)

// nbdkit is `nbdkit file`: the baseline. One file, one copy, no replication.
type nbdkit struct {
	dir       string
	address   string
	sizeBytes int64
	process   *cluster.Process
}

func (n *nbdkit) name() string { return "nbdkit" }
func (n *nbdkit) uri() string  { return "nbd://" + n.address }

func (n *nbdkit) start(ctx context.Context) error {
	path := filepath.Join(n.dir, "disk.img")
	if err := fill(path, n.sizeBytes, 1); err != nil {
		return err
	}
	process, err := startNbdkit(path, n.address, filepath.Join(n.dir, "log"))
	if err != nil {
		return err
	}
	n.process = process
	return waitAnswering(ctx, n.uri())
}

func (n *nbdkit) stop() error { return kill(n.process) }

// startNbdkit serves a file in the foreground.
func startNbdkit(path, address, log string) (*cluster.Process, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return cluster.StartProcess("nbdkit", log, "nbdkit", "--foreground", "--ipaddr", host, "--port", port, "file", path)
}

// kill ends the process if it was started.
func kill(p *cluster.Process) error {
	if p == nil {
		return nil
	}
	return p.Kill()
}
