package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) resourceListCommand() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list the resources of the cluster, as committed", UsageText: "duet resource list [--json]",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				records, err := client.ResourceList(ctx)
				if err != nil {
					return err
				}
				if records == nil {
					records = []control.ResourceRecord{}
				}
				return p.printEither(c, records, func() string { return renderRecords(records) })
			})
		},
	}
}
