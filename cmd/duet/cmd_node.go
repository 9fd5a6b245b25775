package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) nodeCommand() *cli.Command {
	return &cli.Command{
		Name: "node", Usage: "the members of the cluster", UsageText: "duet node COMMAND",
		Subcommands: []*cli.Command{p.nodeListCommand(), p.nodeRemoveCommand()},
	}
}

func (p *program) nodeListCommand() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list the nodes, and whether this one reaches them", UsageText: "duet node list [--json]",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				nodes, err := client.NodeList(ctx)
				if err != nil {
					return err
				}
				return p.printEither(c, nodes, func() string { return renderNodes(nodes) })
			})
		},
	}
}
