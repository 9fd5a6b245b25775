package main

import (
	"context"
	"encoding/json"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) eventsCommand() *cli.Command {
	return &cli.Command{
		Name: "events", Usage: "show every change of state, with its reason", UsageText: "duet events [RESOURCE] [--json] [--follow]",
		Description: `Shows what this node's daemon has seen since it started, as far back as it remembers. --json prints one object per line.

   duet events --follow --json | jq 'select(.kind == "role")'`,
		Flags: []cli.Flag{
			jsonFlag(),
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what happens from now on", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "[RESOURCE]")
			if err != nil {
				return err
			}
			request := control.EventsRequest{Resource: names[0], Follow: c.Bool("follow")}
			show := func(e control.Event) error { return p.printEvent(c, e) }
			if request.Follow {
				return p.followEvents(c, request, show)
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error { return client.Events(ctx, request, show) })
		},
	}
}

// followEvents has no time limit: quiet is good.
func (p *program) followEvents(c *cli.Context, request control.EventsRequest, show func(control.Event) error) error {
	return withClient(c, func(client *control.Client) error {
		err := client.Events(c.Context, request, show)
		if err == nil && c.Err() == nil {
			err = control.Errorf(control.CodeUnreachable, "the daemon has ended")
		}
		return endedByOperator(c.Context, err)
	})
}

func (p *program) printEvent(c *cli.Context, event control.Event) error {
	if !c.Bool("json") {
		return p.print(renderEvent(event))
	}
	line, err := json.Marshal(event)
	if err != nil {
		return err
	}
	return p.print(string(line) + "\n")
}
