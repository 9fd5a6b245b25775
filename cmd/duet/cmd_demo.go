package main

import "github.com/urfave/cli/v2"

func (p *program) demoCommand() *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "show it at work on this machine: a cluster, a load, a crash, a takeover", UsageText: "duet demo [--keep] [--dir DIR]",
		Action: func(c *cli.Context) error {
			_, err := arguments(c)
			return err
		},
	}
}
