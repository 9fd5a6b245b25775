package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) primaryCommand() *cli.Command {
	return &cli.Command{
		Name: "primary", Usage: "make this node Primary",
		UsageText: "duet primary RESOURCE [--force [--yes] [--accept-inconsistent]] [--json]",
		Description: `The Primary serves the device over NBD. Only a node in the in-sync set can become Primary, and only while no other node
is one or the one that is can't be reached by a majority of the cluster.

   duet secondary r0    on the old Primary
   duet primary r0      on the new one

--force is for when those who have every acknowledged write are gone for good: what this node lacks is given up. It
says what that may be, and asks for the resource's name. A majority of the voters is needed all the same, and the role of
a Primary that can be reached is never taken. Should one of the others return, nothing of it is overwritten: it is a
split brain, which the operator has to decide.

A disk that a resync has overwritten in part is a mixture that never was the device's; --accept-inconsistent takes even
that.`,
		Flags: []cli.Flag{
			boolFlag("force", "also with data that may lack acknowledged writes"),
			boolFlag("yes", "with --force: don't ask"),
			boolFlag("accept-inconsistent", "with --force: also with a disk that a resync has overwritten in part"),
			jsonFlag(),
		},
		Action: p.primary,
	}
}

func (p *program) primary(c *cli.Context) error {
	names, err := arguments(c, "RESOURCE")
	if err != nil {
		return err
	}
	request := &control.PrimaryRequest{Force: c.Bool("force"), AcceptInconsistent: c.Bool("accept-inconsistent")}
	if !request.Force && (request.AcceptInconsistent || c.Bool("yes")) {
		return usage(c, "--yes and --accept-inconsistent go with --force only")
	}
	if request.Force {
		if request.Generation, err = p.agreeToForce(c, names[0]); err != nil {
			return err
		}
	}
	return p.ask(c, func(ctx context.Context, client *control.Client) error {
		change, err := client.Primary(ctx, names[0], request)
		if err != nil {
			return err
		}
		return p.printEither(c, change, func() string { return renderRoleChange(names[0], change) })
	})
}

// agreeToForce shows what may be lost and has the operator agree. It returns the generation that was shown: what comes later is
// not agreed to.
func (p *program) agreeToForce(c *cli.Context, resource string) (uint64, error) {
	var report *control.ForceReport
	err := p.ask(c, func(ctx context.Context, client *control.Client) (err error) {
		report, err = client.ForceReport(ctx, resource)
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case report.Refusal != "":
		return 0, control.Errorf(control.CodeRefused, "%s", report.Refusal).WithHint("%s", report.Hint)
	case c.Bool("yes"):
		return report.Generation, nil
	}
	return report.Generation, p.confirm(renderForce(report), resource)
}
