package main

import (
	"github.com/urfave/cli/v2"

	"duet/internal/node"
)

func (p *program) mdCommand() *cli.Command {
	return &cli.Command{
		Name: "md", Usage: "look at a replica's metadata while the daemon is stopped", UsageText: "duet md COMMAND",
		Subcommands: []*cli.Command{p.mdDumpCommand(), p.mdCheckCommand()},
	}
}

// inspectMetadata looks at the replica that the argument names. Nothing is asked of a daemon: there must be none.
func inspectMetadata(c *cli.Context) (*node.MetadataInspection, error) {
	names, err := arguments(c, "RESOURCE")
	if err != nil {
		return nil, err
	}
	return node.InspectMetadata(nodeDir(c), names[0])
}
