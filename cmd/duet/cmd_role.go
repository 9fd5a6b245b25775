package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) roleCommand() *cli.Command {
	return &cli.Command{
		Name: "role", Usage: "print this node's role, for scripts", UsageText: "duet role RESOURCE [--facts | --json]",
		Description: `Prints Primary or Secondary: what this node is right now, by its own knowledge. --facts prints that and what
a manager of the cluster needs besides, as NAME=VALUE lines without quotes:

   role           Primary or Secondary; none if the resource has no replica here, or is not known yet
   disk-state     as in duet status
   standing       what the replica is good for: current (it has every acknowledged write), unknown (it had, and
                  hears no majority now), behind, or none (there is no disk)
   serves         whether this node is the committed Primary and has data to serve, its own or a peer's
   suspended-by   who lets requests wait: no, user or cluster
   quorum         whether a majority of the voters is heard
   promotion      the policy: auto or manual
   primary        the committed Primary, empty for none
   in-sync        the committed in-sync set

Without --facts and --json it is an error, exit code 1, if the resource has no replica here.`,
		Flags:  []cli.Flag{boolFlag("facts", "print NAME=VALUE lines"), jsonFlag()},
		Action: p.role,
	}
}

func (p *program) role(c *cli.Context) error {
	names, err := arguments(c, "RESOURCE")
	if err != nil {
		return err
	}
	facts := c.Bool("facts")
	if facts && c.Bool("json") {
		return usage(c, "--facts and --json exclude each other")
	}
	return p.ask(c, func(ctx context.Context, client *control.Client) error {
		report, err := roleReport(ctx, client, names[0])
		if err != nil && (facts || c.Bool("json")) && control.AsError(err).Code == control.CodeNotFound {
			report, err = control.NoRoleReport(names[0]), nil
		}
		if err != nil {
			return err
		}
		return p.printEither(c, report, func() string {
			if facts {
				return report.Lines()
			}
			return string(report.Role) + "\n"
		})
	})
}

func roleReport(ctx context.Context, client *control.Client, resource string) (*control.RoleReport, error) {
	status, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	found, err := selectResource(status.Resources, resource)
	if err != nil {
		return nil, err
	}
	record, err := client.ResourceShow(ctx, resource)
	if err != nil {
		return nil, err
	}
	return control.NewRoleReport(status.Node, &found[0], record), nil
}
