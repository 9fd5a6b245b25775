package main

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) tokenCommand() *cli.Command {
	return &cli.Command{
		Name: "token", Usage: "print a token that lets one node join", UsageText: "duet token [--ttl 1h] [--json]",
		Description: `The token holds the addresses of members, what the joining node needs to recognise them, and a certificate that is
good for one join until it expires. Treat it like a password.

   duet token --ttl 10m`,
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "ttl", Usage: "it works for so `LONG`", Value: time.Hour},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			request := &control.TokenRequest{TTL: control.Duration(c.Duration("ttl"))}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				token, err := client.Token(ctx, request)
				if err != nil {
					return err
				}
				return p.printEither(c, token, func() string { return token.Token + "\n" })
			})
		},
	}
}
