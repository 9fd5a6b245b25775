package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) nodeRemoveCommand() *cli.Command {
	return &cli.Command{
		Name: "remove", Usage: "take another node out of the cluster for good, dead or alive",
		UsageText: "duet node remove NODE [--with-replicas] [--force] [--json]",
		Description: `Takes NODE's vote and its place in the record. It is not asked for anything, so it may be dead; if it comes back,
it is refused, and its daemon says what to do. Said again, the command finishes what an interruption left.

Refused while NODE is a Primary, has the last in-sync replica of a resource, or is needed for a majority of the voters
that answer. To replace a dead node: remove it, let the new one join, and give that one the replicas.

   duet node remove n2 --with-replicas
   duet join --name n4 TOKEN            # on the new machine; then duet run
   duet resource add-replica r0 --on n4=/srv/r0.img`,
		Flags: []cli.Flag{
			boolFlag("with-replicas", "its replicas are removed, too"),
			boolFlag("force", "that, and also one that is a side of a split that nobody has decided about"),
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "NODE")
			if err != nil {
				return err
			}
			request := &control.NodeRemoveRequest{Node: names[0], WithReplicas: c.Bool("with-replicas"), Force: c.Bool("force")}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				removal, err := client.NodeRemove(ctx, request)
				if err != nil {
					return err
				}
				return p.printEither(c, removal, func() string { return renderRemoval(removal) })
			})
		},
	}
}

func renderRemoval(r *control.NodeRemoval) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is removed; voters: %s\n", r.Node, strings.Join(r.Voters, ", "))
	for _, warning := range r.Warnings {
		fmt.Fprintf(&b, "note: %s\n", oneLine(warning))
	}
	return b.String()
}
