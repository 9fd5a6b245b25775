package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"

	"duet/internal/control"
	"duet/internal/node"
	"duet/internal/supervisor"
	"duet/replication"
)

func (p *program) runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "run the node's daemon, in the foreground", UsageText: "duet run [OPTION...]",
		Description: `Runs until SIGTERM or SIGINT: then a Primary finishes what is under way, flushes and leaves in good order, so that nothing
needs a resync. It logs to stderr. Where systemd started it, it says when it is ready.

   duet --dir /srv/duet run --log-level debug`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "log-level", Usage: "`LEVEL`: debug, info, warn or error", Value: "info"},
			&cli.StringFlag{Name: "reads", Usage: "`MODE`: how a Primary makes sure that a read is not stale: by a lease of each in-sync replica, by a confirm for " +
				"each read, or auto: lease unless the machine's clock stops with a virtual machine", Value: "auto"},
			&cli.BoolFlag{Name: "supervisor", Usage: "have a second process tell the other nodes at once when this one dies", Value: true},
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
			reads, err := readMode(c, logger)
			if err != nil {
				return err
			}
			options := node.Options{Dir: nodeDir(c), Logger: logger, Version: *ownVersion(), Reads: reads}
			if c.Bool("supervisor") {
				options.Supervise = func(ctx context.Context) error { return supervisor.Spawn(ctx, options.Dir) }
			}
			return p.runDaemon(c.Context, options)
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

// clockSource names the clock of the machine.
const clockSource = "/sys/devices/system/clocksource/clocksource0/current_clocksource"

// readMode is the flag; auto goes by the machine's clock. One that stands still while a virtual machine is stopped lets a
// Primary believe in a lease that is over, so only those that are known to go on are trusted.
func readMode(c *cli.Context, logger *slog.Logger) (replication.ReadMode, error) {
	switch mode := c.String("reads"); mode {
	case "lease":
		return replication.ReadsLease, nil
	case "confirm":
		return replication.ReadsConfirm, nil
	case "auto":
	default:
		return 0, usage(c, "--reads %s: auto, lease or confirm are possible", mode)
	}
	source, err := os.ReadFile(clockSource)
	name := strings.TrimSpace(string(source))
	if err == nil && slices.Contains([]string{"tsc", "hpet", "acpi_pm", "arch_sys_counter"}, name) {
		return replication.ReadsLease, nil
	}
	logger.Warn("each read is confirmed by the other replicas: the machine's clock may stop with a virtual machine; --reads says otherwise",
		"clock", name, "error", err)
	return replication.ReadsConfirm, nil
}

// runDaemon runs the node until SIGTERM or SIGINT.
func (p *program) runDaemon(ctx context.Context, options node.Options) error {
	options.Ready = func() {
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			options.Logger.Warn("tell systemd", "error", err)
		}
	}
	err := node.Run(ctx, options)
	if err != nil {
		return control.Errorf(control.CodeRefused, "%v", err)
	}
	return nil
}
