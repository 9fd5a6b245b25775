package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) resourceShowCommand() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "show one resource as committed, with its history", UsageText: "duet resource show NAME [--json]",
		Description: `Shows what the cluster has agreed on: replicas, policies, the in-sync set, and how each generation came to be. What this
node sees right now is in duet status.`,
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				record, err := client.ResourceShow(ctx, names[0])
				if err != nil {
					return err
				}
				return p.printEither(c, record, func() string { return renderRecord(record) })
			})
		},
	}
}
