package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) quorumCommand() *cli.Command {
	return &cli.Command{
		Name: "quorum", Usage: "the group that decides", UsageText: "duet quorum COMMAND",
		Subcommands: []*cli.Command{p.quorumStatusCommand(), p.quorumTransferCommand(), p.quorumRecoverCommand()},
	}
}

func (p *program) quorumStatusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show leader, term and voters, and how many can be lost", UsageText: "duet quorum status [--json]",
		Description: `Every voter is asked. LAG is how many entries of the log it has not stored yet, HEARD how long ago it heard the leader. A
majority of the voters has to answer for anything to be decided: who is Primary, which replicas are in sync.`,
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				report, err := client.QuorumReport(ctx)
				if err != nil {
					return err
				}
				return p.printEither(c, report, func() string { return renderQuorum(report) })
			})
		},
	}
}

func (p *program) quorumTransferCommand() *cli.Command {
	return &cli.Command{
		Name: "transfer", Usage: "make another voter the leader", UsageText: "duet quorum transfer [--to NODE] [--json]",
		Description: `Nothing that uses a device notices. Without --to it is a voter that is Primary of nothing, a witness first. A leader that is
Primary of something hands leadership on by itself.`,
		Flags: []cli.Flag{&cli.StringFlag{Name: "to", Usage: "the `NODE` that is to lead"}, jsonFlag()},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				transfer, err := client.Transfer(ctx, &control.TransferRequest{To: c.String("to")})
				if err != nil {
					return err
				}
				return p.printEither(c, transfer, func() string { return renderTransfer(transfer) })
			})
		},
	}
}
