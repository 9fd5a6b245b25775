package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) primaryCommand() *cli.Command {
	return &cli.Command{
		Name: "primary", Usage: "make this node Primary", UsageText: "duet primary RESOURCE [--force] [--json]",
		Description: `The Primary serves the device over NBD. Only a node in the in-sync set can become Primary, and only while no other node
is one or the one that is can't be reached by a majority of the cluster.

   duet secondary r0    on the old Primary
   duet primary r0      on the new one`,
		Flags: []cli.Flag{
			boolFlag("force", "also with data that may lack acknowledged writes"),
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				change, err := client.Primary(ctx, names[0], &control.PrimaryRequest{Force: c.Bool("force")})
				if err != nil {
					return err
				}
				return p.printEither(c, change, func() string { return renderRoleChange(names[0], change) })
			})
		},
	}
}
