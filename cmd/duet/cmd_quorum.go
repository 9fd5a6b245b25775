package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) quorumCommand() *cli.Command {
	return &cli.Command{
		Name: "quorum", Usage: "the group that decides", UsageText: "duet quorum COMMAND",
		Subcommands: []*cli.Command{p.quorumStatusCommand(), p.quorumRecoverCommand()},
	}
}

func (p *program) quorumStatusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show leader, term and voters as this node sees them", UsageText: "duet quorum status [--json]",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				status, err := client.Status(ctx)
				if err != nil {
					return err
				}
				return p.printEither(c, status.Quorum, func() string { return renderQuorum(&status.Quorum) })
			})
		},
	}
}
