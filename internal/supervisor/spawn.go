package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"duet/internal/config"
)

// ReadyDescriptor is the number under which a supervisor that Spawn starts finds the pipe to say that it serves.
const ReadyDescriptor = 3

// self is the program that runs, also when its file was replaced or removed since.
const self = "/proc/self/exe"

// processName is what tools show of the process instead of "exe".
const processName = "duet-supervisor"

// spawnTime bounds how long a supervisor may take until it serves.
const spawnTime = 5 * time.Second

// Spawn starts a supervisor of this very program, as `duet --dir DIR supervise`, detached, and returns when it serves or has
// ended. Nothing of this process is left to it: descriptors that were inherited from who started this process are marked to
// be closed.
func Spawn(ctx context.Context, dir config.Dir) (err error) {
	absolute, err := filepath.Abs(string(dir))
	if err != nil {
		return err
	}
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	ready, serves, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ready.Close()) }()
	command := exec.Command(self, "--dir", absolute, "supervise", "--ready")
	command.Args[0] = "duet"
	command.Dir, command.Env = "/", environment(os.Environ())
	command.ExtraFiles = []*os.File{serves} // becomes ReadyDescriptor
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := errors.Join(command.Start(), serves.Close()); err != nil {
		return err
	}
	// This goroutine collects the process, should it end before this one does.
	go func() { _ = command.Wait() }() //nolint:errcheck // how it ended is in its log
	return awaitReady(ctx, ready)
}

// awaitReady returns when the supervisor says that it serves, or has ended: another one may be there then.
func awaitReady(ctx context.Context, ready *os.File) error {
	if err := ready.SetReadDeadline(time.Now().Add(spawnTime)); err != nil {
		return err
	}
	var failure error
	stop := context.AfterFunc(ctx, func() { failure = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := ready.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.Join(errors.New("the supervisor does not get ready"), ctx.Err(), failure)
	}
	return nil
}

// environment leaves out what systemd tells the daemon alone.
func environment(all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return name == "NOTIFY_SOCKET" || strings.HasPrefix(name, "WATCHDOG_") || strings.HasPrefix(name, "LISTEN_")
	})
}

// niceness is what the supervisor asks for: it needs a processor seldom, and then at once, also where all are busy.
const niceness = -10

// PrepareProcess gives the process a name that says what it is, and a better place in the queue for the processors: all its
// threads, which have a process group of their own. Where that is not allowed, it is only slower.
func PrepareProcess() error {
	return errors.Join(os.WriteFile("/proc/self/comm", []byte(processName), 0), unix.Setpriority(unix.PRIO_PGRP, 0, niceness))
}
