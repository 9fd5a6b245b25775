package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) resyncStatusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show how far a resync is", UsageText: "duet resync status RESOURCE [--json] [--watch]",
		Description: `Shows source and target, how much is done, the rate and when it ends. With several resyncs at once it is the one that
ends last; duet status has them all. --watch goes on until there is none.`,
		Flags: []cli.Flag{
			jsonFlag(),
			boolFlag("watch", "show it again every second until it is over"),
		},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			if !c.Bool("watch") {
				return only(p.showResync(c, names[0]))
			}
			return p.watchResync(c, names[0])
		},
	}
}

// watchResync shows the resync until there is none any more.
func (p *program) watchResync(c *cli.Context, resource string) error {
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	c.Context = ctx
	return p.watch(c, func() error {
		state, err := p.showResync(c, resource)
		if err == nil && state == control.ResyncNone {
			cancel()
		}
		return err
	})
}

// showResync prints the progress once and says what state it is in.
func (p *program) showResync(c *cli.Context, resource string) (state control.ResyncState, err error) {
	err = p.ask(c, func(ctx context.Context, client *control.Client) error {
		resync, err := client.ResyncStatus(ctx, resource)
		if err != nil {
			return err
		}
		state = resync.State
		if resync.PausedBy == nil {
			resync.PausedBy = []string{}
		}
		return p.printEither(c, resync, func() string { return p.frame(c, renderResync(resync)+"\n") })
	})
	return state, err
}

// only drops a result that is not wanted here.
func only[T any](_ T, err error) error { return err }
