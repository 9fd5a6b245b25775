package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) resyncPauseCommand() *cli.Command {
	return &cli.Command{
		Name: "pause", Usage: "let resyncs wait until duet resync resume", UsageText: "duet resync pause RESOURCE",
		Description: `Resyncs from and to this node wait, whichever node they are asked on; what was copied stays copied. Writes still go to
the replica that is being resynced, but it protects nobody yet. The pause outlasts lost connections; it ends when the
daemon is restarted.`,
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			return p.changeResync(c, names[0], &control.ResyncRequest{Paused: new(true)})
		},
	}
}

// changeResync asks the daemon for a change.
func (p *program) changeResync(c *cli.Context, resource string, r *control.ResyncRequest) error {
	if err := r.Validate(); err != nil {
		return err
	}
	return p.ask(c, func(ctx context.Context, client *control.Client) error {
		return client.ChangeResync(ctx, resource, r)
	})
}
