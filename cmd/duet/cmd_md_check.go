package main

import (
	"github.com/urfave/cli/v2"

	"duet/internal/control"
	"duet/internal/node"
)

func (p *program) mdCheckCommand() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "check every checksum and rule of the metadata", UsageText: "duet md check RESOURCE [--json]",
		Description: `Reads all metadata of this node's replica and says of everything that is not as it should be what follows from it, and, where
the replica can't be used any more, which commands make it anew. Nothing is changed. Refused while the daemon runs.

Exit code: 0 nothing found, 1 something found.`,
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			found, err := inspectMetadata(c)
			if err != nil {
				return err
			}
			if err := p.printEither(c, mdCheckView(found), func() string { return renderFindings(found) }); err != nil {
				return err
			}
			return mdVerdict(found)
		},
	}
}

// mdVerdict makes findings an exit code, and says what to do.
func mdVerdict(m *node.MetadataInspection) error {
	found := control.Errorf(control.CodeRefused, "%s in the metadata of %s on %s", counted(len(m.Findings), "finding"), m.Resource, m.Node)
	lost := control.Errorf(control.CodeRefused, "the replica of %s on %s can't be used as it is", m.Resource, m.Node)
	switch {
	case len(m.Findings) == 0:
		return nil
	case len(m.Remake) > 0:
		return lost.WithHint("it comes back by the commands above")
	case m.Fatal():
		return lost.WithHint("put the right disk and its metadata back: no other replica was in sync when this node stopped")
	}
	return found.WithHint("what is said above happens when the daemon starts")
}
