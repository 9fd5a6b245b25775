package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/urfave/cli/v2"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/supervisor"
)

// superviseThreads is how many threads of the supervisor may run at a time: it has next to nothing to do.
const superviseThreads = 2

// superviseMemoryBytes is what the collector keeps the supervisor below.
const superviseMemoryBytes = 32 << 20

func (p *program) superviseCommand() *cli.Command {
	return &cli.Command{
		Name: "supervise", Usage: "watch the node's daemon and tell the other nodes when it dies; `duet run` starts it", UsageText: "duet supervise",
		Hidden: true,
		Flags: []cli.Flag{
			boolFlag("ready", "close descriptor 3 when daemons are served"),
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return supervise(c.Context, nodeDir(c), c.Bool("ready"))
		},
	}
}

// supervise is the supervisor's process.
func supervise(ctx context.Context, dir config.Dir, tellReady bool) (err error) {
	log, err := supervisor.OpenLog(dir.WatchLog())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	logger := slog.New(slog.NewTextHandler(log, nil))
	signal.Ignore(syscall.SIGHUP)
	runtime.GOMAXPROCS(superviseThreads)
	debug.SetMemoryLimit(superviseMemoryBytes)
	if err := supervisor.PrepareProcess(); err != nil {
		logger.Info("prepare the process", "error", err)
	}
	cfg := supervisor.Config{Dir: dir, Program: ownVersion().Version + " " + ownVersion().Revision, Logger: logger}
	if tellReady {
		cfg.Ready = func() {
			if err := os.NewFile(supervisor.ReadyDescriptor, "ready").Close(); err != nil {
				logger.Warn("tell that daemons are served", "error", err)
			}
		}
	}
	err = supervisor.Run(ctx, cfg)
	if err != nil {
		logger.Error("supervisor", "error", err)
		return control.Errorf(control.CodeRefused, "%v", err)
	}
	return nil
}
