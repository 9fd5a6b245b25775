package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) attachCommand() *cli.Command {
	return &cli.Command{
		Name: "attach", Usage: "use this node's disk of a resource again, after duet detach or a failure",
		UsageText: "duet attach RESOURCE",
		Description: `The disk gets what changed meanwhile, or everything if it had failed or is not the one that it was; duet status shows
how far that is. A Primary serves its clients all the time. What was asked of the disk before has to have returned first.`,
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error { return client.Attach(ctx, names[0]) })
		},
	}
}
