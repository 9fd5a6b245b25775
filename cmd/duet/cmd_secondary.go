package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) secondaryCommand() *cli.Command {
	return &cli.Command{
		Name: "secondary", Usage: "make this node Secondary", UsageText: "duet secondary RESOURCE [--json]",
		Description: `Finishes and flushes what is under way, then ends the service of the device. No node takes over by itself until somebody
says duet primary, on whichever node. Nothing needs a resync afterwards.`,
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				change, err := client.Secondary(ctx, names[0])
				if err != nil {
					return err
				}
				return p.printEither(c, change, func() string { return renderRoleChange(names[0], change) })
			})
		},
	}
}
