package main

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

// suspendSlack is how much longer than the daemon the command waits: the daemon's word is the last.
const suspendSlack = 5 * time.Second

func (p *program) suspendIOCommand() *cli.Command {
	return &cli.Command{
		Name: "suspend-io", Usage: "let all requests of clients wait, until duet resume-io",
		UsageText: "duet suspend-io RESOURCE [--flush] [--for DURATION] [--timeout DURATION] [--json]",
		Description: `To be said on the Primary. New requests, reads too, wait; they do not fail. The command returns when nothing is under way any
more: from then on the disks of all replicas that are in sync are equal and don't change. With --flush everything that was
written is on stable media there as well, so that snapshots of the disks taken meanwhile are what a loss of power would leave.

If what is under way does not end within --timeout (30s unless given), nothing is suspended, and the exit code is 4. The
suspension ends with duet resume-io, after --for, and when the node stops being Primary or its daemon is restarted. A replica
that leaves the in-sync set meanwhile and returns is written to all the same.

   duet suspend-io r0 --flush --for 1m
   duet resume-io r0`,
		Flags: []cli.Flag{
			boolFlag("flush", "make everything that was written durable on every in-sync replica first"),
			&cli.DurationFlag{Name: "for", Usage: "go on by itself after `DURATION`, such as 1m"},
			jsonFlag(),
		},
		Action: p.suspendIO,
	}
}

func (p *program) suspendIO(c *cli.Context) error {
	names, err := arguments(c, "RESOURCE")
	if err != nil {
		return err
	}
	if c.IsSet("for") && c.Duration("for") <= 0 {
		return usage(c, "--for %v makes no sense", c.Duration("for"))
	}
	limit := c.Duration("timeout")
	if limit <= 0 {
		return usage(c, "a --timeout of %v makes no sense", limit)
	}
	request := &control.SuspendRequest{Flush: c.Bool("flush"), For: control.Duration(c.Duration("for")), Timeout: control.Duration(limit)}
	ctx, cancel := context.WithTimeout(c.Context, limit+suspendSlack)
	defer cancel()
	return withClient(c, func(client *control.Client) error {
		reached, err := client.SuspendIO(ctx, names[0], request)
		if err != nil {
			return err
		}
		return p.printEither(c, reached, func() string { return renderSuspension(names[0], reached) })
	})
}

func (p *program) resumeIOCommand() *cli.Command {
	return &cli.Command{
		Name: "resume-io", Usage: "let the requests go on that duet suspend-io has stopped", UsageText: "duet resume-io RESOURCE",
		Description: `To be said on the node where they were stopped.`,
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				return client.ResumeIO(ctx, names[0])
			})
		},
	}
}
