package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"duet/tests/cluster"
)

// startTimeout bounds how long a server may take until it answers.
const startTimeout = 30 * time.Second

// server is something that serves a filled device over NBD on loopback TCP.
type server interface {
	name() string
	uri() string
	start(ctx context.Context) error
	stop() error
}

// newServer makes the server of that name, with a directory for its files.
func newServer(name, dir string, c *config) (server, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	addresses, err := cluster.FreeAddresses("127.0.0.1", 2)
	if err != nil {
		return nil, err
	}
	switch name {
	case "nbdkit":
		return &nbdkit{dir: dir, address: addresses[0], sizeBytes: c.sizeBytes}, nil
	case "qemu":
		return &qemu{dir: dir, front: addresses[0], back: addresses[1], sizeBytes: c.sizeBytes}, nil
	case "duet", "duet-tls":
		return &duet{label: name, dir: dir, insecure: name == "duet", config: c}, nil
	}
	return nil, fmt.Errorf("no server %q", name)
}

// waitAnswering waits until the server at uri can be asked for its size.
func waitAnswering(ctx context.Context, uri string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return cluster.WaitFor(ctx, uri+" to answer", func() error {
		output, err := exec.CommandContext(ctx, "nbdinfo", "--size", uri).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, output)
		}
		return nil
	})
}

// fill writes a file of incompressible data that is the same for the same seed, and leaves it in the page cache.
func fill(path string, sizeBytes int64, seed byte) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	if _, err := io.CopyN(w, rand.NewChaCha8([32]byte{seed}), sizeBytes); err != nil {
		return fmt.Errorf("fill %s: %w", filepath.Base(path), err)
	}
	return w.Flush()
}
