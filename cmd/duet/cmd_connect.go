package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) connectCommand() *cli.Command {
	return &cli.Command{
		Name: "connect", Usage: "connect to a peer, or to all, again", UsageText: "duet connect RESOURCE [PEER]",
		Description: "Undoes duet disconnect. Connections are made and kept without it.",
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE", "[PEER]")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				return client.Connect(ctx, names[0], &control.PeerRequest{Peer: names[1]})
			})
		},
	}
}
