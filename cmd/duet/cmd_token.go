package main

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) tokenCommand() *cli.Command {
	return &cli.Command{
		Name: "token", Usage: "print a token that lets one node join", UsageText: "duet token [--ttl 1h] [--client NAME --out DIRECTORY] [--json]",
		Description: `The token holds the addresses of members, what the joining node needs to recognise them, and a certificate that is
good for one join until it expires. Treat it like a password.

With --client it makes the credentials of an NBD client on another machine instead: three files, with the names that
QEMU, libnbd and nbdkit look for, good for a year unless --ttl says otherwise.

   duet token --ttl 10m
   duet token --client db1 --out ./db1`,
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "ttl", Usage: "it works for so `LONG`", Value: time.Hour},
			&cli.StringFlag{Name: "client", Usage: "make credentials for the NBD client `NAME` instead"},
			&cli.StringFlag{Name: "out", Usage: "`DIRECTORY` for those credentials"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			if c.IsSet("client") {
				return p.issueClient(c)
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
