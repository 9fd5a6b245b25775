package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"
)

// demoTimeout ends a demonstration that hangs. It takes a few seconds.
const demoTimeout = 2 * time.Minute

func (p *program) demoCommand() *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "show it at work on this machine: a cluster, a load, crashes, a takeover", UsageText: "duet demo [--keep] [--dir DIR]",
		Description: `Starts three real nodes on loopback addresses, two with data and a witness, puts a load on a replicated device that
remembers what it was promised, kills the Secondary and later the Primary, makes the other node Primary, and at the end
compares: every acknowledged write must be there, and both disks must be identical. Exit code 0 means that they are.

   duet demo
   duet demo --keep --dir /tmp/duet`,
		Flags: []cli.Flag{
			boolFlag("keep", "leave the cluster running at the end, and say how to use it"),
			&cli.StringFlag{Name: "dir", Usage: "`DIR` for everything the nodes write; a temporary one otherwise"},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			binary, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			ctx, cancel := context.WithTimeout(c.Context, demoTimeout)
			defer cancel()
			return runDemo(ctx, demoConfig{binary: binary, dir: c.String("dir"), keep: c.Bool("keep"), out: p.stdout})
		},
	}
}
