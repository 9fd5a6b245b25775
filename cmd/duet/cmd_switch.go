package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) switchCommand() *cli.Command {
	return &cli.Command{
		Name: "switch", Usage: "make another node Primary, in good order", UsageText: "duet switch RESOURCE [--to NODE] [--json]",
		Description: `Finishes and flushes what is under way, hands the Primary's role to an in-sync node and prints how long each step took.
It may be given on any node. No acknowledged write is lost, nothing needs a resync, and clients see no error: their
connections are closed, and when they connect again they find the new Primary.

Without --to it is the only other in-sync node, or the preferred one. If the other node fails to take over within five
seconds, this one takes the role back and the command fails.

   duet switch r0            n1, n2 and w1: to the other data node
   duet switch r0 --to n1    back to n1`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "the `NODE` that is to be Primary"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				result, err := client.Switch(ctx, names[0], &control.SwitchRequest{To: c.String("to")})
				if err != nil {
					return err
				}
				return p.printEither(c, result, func() string { return renderSwitch(result) })
			})
		},
	}
}

// renderSwitch says who is Primary now, and how long the clients waited.
func renderSwitch(r *control.SwitchResult) string {
	if r.Already {
		return fmt.Sprintf("%s: %s is Primary already, in generation %d\n", r.Resource, r.To, r.Generation)
	}
	return fmt.Sprintf("%s: %s is Primary since generation %d, in place of %s\n", r.Resource, r.To, r.Generation, r.From) +
		fmt.Sprintf("drain %.1f ms, commit %.1f ms, promote %.1f ms, total %.1f ms\n", r.DrainMS, r.CommitMS, r.PromoteMS, r.TotalMS)
}
