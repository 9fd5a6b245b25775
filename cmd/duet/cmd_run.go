package main

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/node"
)

func (p *program) runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "run the node's daemon, in the foreground", UsageText: "duet run [OPTION...]",
		Description: `Runs until SIGTERM or SIGINT: then a Primary finishes what is under way, flushes and leaves in good order, so that nothing
needs a resync. It logs to stderr. Where systemd started it, it says when it is ready.

   duet --dir /srv/duet run --log-level debug`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "log-level", Usage: "`LEVEL`: debug, info, warn or error", Value: "info"},
			&cli.StringFlag{Name: "log-format", Usage: "`FORMAT`: text or json", Value: "text"},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			logger, err := newLogger(c, p.stderr)
			if err != nil {
				return err
			}
			return p.runDaemon(c.Context, nodeDir(c), logger)
		},
	}
}

// newLogger makes the daemon's log as the flags want it.
func newLogger(c *cli.Context, to io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return nil, usage(c, "--log-level %s: debug, info, warn or error are possible", c.String("log-level"))
	}
	options := &slog.HandlerOptions{Level: level}
	switch format := strings.ToLower(c.String("log-format")); format {
	case "text":
		return slog.New(slog.NewTextHandler(to, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(to, options)), nil
	default:
		return nil, usage(c, "--log-format %s: text or json are possible", format)
	}
}

// runDaemon runs the node until SIGTERM or SIGINT.
func (p *program) runDaemon(ctx context.Context, dir config.Dir, logger *slog.Logger) error {
	err := node.Run(ctx, node.Options{Dir: dir, Logger: logger, Version: *ownVersion(), Ready: func() {
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			logger.Warn("tell systemd", "error", err)
		}
	}})
	if err != nil {
		return control.Errorf(control.CodeRefused, "%v", err)
	}
	return nil
}
