package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) disconnectCommand() *cli.Command {
	return &cli.Command{
		Name: "disconnect", Usage: "end the connection with a peer, or with all, until duet connect",
		UsageText: "duet disconnect RESOURCE [PEER]",
		Description: `A Primary goes on without the peer, which is resynced when it is back. Until then an acknowledged write is on fewer
nodes.`,
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE", "[PEER]")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				return client.Disconnect(ctx, names[0], &control.PeerRequest{Peer: names[1]})
			})
		},
	}
}
