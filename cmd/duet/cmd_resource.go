package main

import "github.com/urfave/cli/v2"

func (p *program) resourceCommand() *cli.Command {
	return &cli.Command{
		Name: "resource", Usage: "create, list, show, change and delete replicated devices", UsageText: "duet resource COMMAND",
		Subcommands: []*cli.Command{
			p.resourceCreateCommand(), p.resourceListCommand(), p.resourceShowCommand(), p.resourceEditCommand(),
			p.resourceAddReplicaCommand(), p.resourceRemoveReplicaCommand(), p.resourceDeleteCommand(),
		},
	}
}
