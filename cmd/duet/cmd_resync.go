package main

import "github.com/urfave/cli/v2"

func (p *program) resyncCommand() *cli.Command {
	return &cli.Command{
		Name: "resync", Usage: "follow and steer the copying of what is out of sync", UsageText: "duet resync COMMAND",
		Subcommands: []*cli.Command{p.resyncStatusCommand(), p.resyncPauseCommand(), p.resyncResumeCommand(), p.resyncSetCommand()},
	}
}
