package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) detachCommand() *cli.Command {
	return &cli.Command{
		Name: "detach", Usage: "stop using this node's disk of a resource, until duet attach",
		UsageText: "duet detach RESOURCE",
		Description: `Closes the disk and releases its lock, so that it can be looked at or replaced. A Primary goes on through its peers.
The last replica that is in sync is refused. A disk that has failed is closed, too, once what was asked of it has
returned. The daemon attaches the disk again when it starts.`,
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error { return client.Detach(ctx, names[0]) })
		},
	}
}
