package main

import "github.com/urfave/cli/v2"

func (p *program) mdDumpCommand() *cli.Command {
	return &cli.Command{
		Name: "dump", Usage: "show what the metadata of this node's replica say", UsageText: "duet md dump RESOURCE [--json]",
		Description: `Shows the superblock and which copy of it counts, the activity log with the extents that were being written, and how much is
out of sync for each peer. Nothing is changed. Refused while the daemon runs: duet status shows what that sees.`,
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			found, err := inspectMetadata(c)
			if err != nil {
				return err
			}
			return p.printEither(c, mdView(found), func() string { return renderMetadata(found) })
		},
	}
}
