package main

import (
	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) resyncResumeCommand() *cli.Command {
	return &cli.Command{
		Name: "resume", Usage: "let paused resyncs go on", UsageText: "duet resync resume RESOURCE [--max-rate RATE]",
		Description: `Undoes duet resync pause. A resync that was paused on both nodes goes on when both are resumed.`,
		Flags:       []cli.Flag{maxRateFlag()},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			rate, err := maxRate(c)
			if err != nil {
				return err
			}
			return p.changeResync(c, names[0], &control.ResyncRequest{Paused: new(false), MaxRate: rate})
		},
	}
}
