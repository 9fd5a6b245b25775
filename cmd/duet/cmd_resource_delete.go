package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) resourceDeleteCommand() *cli.Command {
	return &cli.Command{
		Name: "delete", Usage: "delete a resource; its disks keep their data", UsageText: "duet resource delete NAME [--force]",
		Description: `Ends the replication and removes the metadata. The data stay on the disks, as plain device contents. Refused while a node
is Primary (duet secondary NAME first).`,
		Flags: []cli.Flag{boolFlag("force", "also when a node with a replica can't be reached")},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				if err := client.ResourceDelete(ctx, names[0], &control.ResourceDeleteRequest{Force: c.Bool("force")}); err != nil {
					return err
				}
				return p.print(fmt.Sprintf("%s is deleted; its disks keep their data\n", names[0]))
			})
		},
	}
}
