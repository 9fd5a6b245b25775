package main

import (
	"github.com/urfave/cli/v2"

	"duet/internal/config"
	"duet/internal/control"
)

func (p *program) resyncSetCommand() *cli.Command {
	return &cli.Command{
		Name: "set", Usage: "limit resyncs, or let them compare", UsageText: "duet resync set RESOURCE [--max-rate RATE|off] [--compare auto|always]",
		Description: `Changes how this node takes part in resyncs, at once and until the daemon is restarted. Without any limit a resync uses
what the application leaves: it slows down where writes would take more than twice as long as without it. Of two
limits, of source and target, the lower one counts, for each resync by itself; blocks that are zero or equal cost nothing.

   duet resync set r0 --max-rate 50MiB`,
		Flags: []cli.Flag{
			maxRateFlag(),
			&cli.StringFlag{Name: "compare", Usage: "`WHEN` hashes are compared before blocks are copied: auto (after a crash, and when everything is to be copied) or always"},
		},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			request := new(control.ResyncRequest)
			if request.MaxRate, err = maxRate(c); err != nil {
				return err
			}
			if c.IsSet("compare") {
				request.Compare = new(control.Comparison(c.String("compare")))
			}
			if request.MaxRate == nil && request.Compare == nil {
				return control.Errorf(control.CodeUsage, "nothing is to be set: give --max-rate or --compare")
			}
			return p.changeResync(c, names[0], request)
		},
	}
}

func maxRateFlag() cli.Flag {
	return &cli.StringFlag{Name: "max-rate", Usage: "at most so many bytes per second (`RATE`), such as 50MiB; off for no limit"}
}

// maxRate is the limit that was given, nil without.
func maxRate(c *cli.Context) (*uint64, error) {
	switch text := c.String("max-rate"); {
	case !c.IsSet("max-rate"):
		return nil, nil
	case text == "off":
		return new(uint64(0)), nil
	default:
		rate, err := config.ParseSize(text)
		if err != nil {
			return nil, control.Errorf(control.CodeUsage, "--max-rate: %v", err)
		}
		return &rate, nil
	}
}
