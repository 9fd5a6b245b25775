package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run does it all in a directory of its own, which is gone afterwards.
func run(ctx context.Context, arguments []string) (err error) {
	config, err := parseConfig(arguments)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(config.dir, "duet-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{config: config, dir: dir}
	defer func() { err = errors.Join(err, b.stopServers()) }()
	if err := b.startServers(ctx); err != nil {
		return err
	}
	if err := b.measureRows(ctx); err != nil {
		return err
	}
	if config.resync {
		if err := b.measureResync(ctx); err != nil {
			return err
		}
	}
	if config.during {
		if err := b.measureDuring(ctx); err != nil {
			return err
		}
	}
	b.results.print(os.Stdout, config)
	if config.jsonPath == "" {
		return nil
	}
	return b.results.writeJSON(config.jsonPath)
}

// bench is one run.
type bench struct {
	config  *config
	dir     string
	servers []server
	results results
}

// startServers starts every server that was asked for, each on filled files of its own.
func (b *bench) startServers(ctx context.Context) error {
	for _, name := range b.config.peers {
		s, err := newServer(name, filepath.Join(b.dir, name), b.config)
		if err != nil {
			return err
		}
		b.servers = append(b.servers, s)
		fmt.Fprintf(os.Stderr, "starting %s\n", name)
		if err := s.start(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (b *bench) stopServers() error {
	var failures []error
	for _, s := range b.servers {
		failures = append(failures, s.stop())
	}
	return errors.Join(failures...)
}

// measureRows takes one measurement of every row on every server, round by round.
func (b *bench) measureRows(ctx context.Context) error {
	for round := range b.config.rounds {
		for _, row := range b.config.rows {
			for _, s := range b.servers {
				m, err := measure(ctx, row, s.uri(), b.config)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", row.name, s.name(), err)
				}
				b.results.add(row.name, s.name(), m)
				fmt.Fprintf(os.Stderr, "round %d/%d  %-16s %-11s %s\n", round+1, b.config.rounds, row.name, s.name(), m)
			}
		}
	}
	return nil
}

// names joins the names of things for a usage text.
func names[T any](things []T, name func(T) string) string {
	var all []string
	for _, thing := range things {
		all = append(all, name(thing))
	}
	return strings.Join(all, ",")
}
