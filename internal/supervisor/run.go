package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"duet/internal/config"
	"duet/internal/control"
)

const (
	lookInterval = 500 * time.Millisecond // between two looks whether the supervisor is still of use
	lockTime     = 2 * time.Second        // for a former supervisor to be gone
	lockInterval = 20 * time.Millisecond
)

// ErrRunning is returned when the directory has a supervisor.
var ErrRunning = errors.New("another supervisor runs for this directory")

// Run is the supervisor's process. When ctx ends, it ends as soon as no daemon runs and what is owed is delivered, or too old;
// else when nothing keeps it any more.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	listener, err := control.ListenLocal(cfg.Dir.WatchSocket())
	if err != nil {
		return err
	}
	s := newSupervisor(cfg)
	s.loops.Go(func() { s.acceptDaemons(listener) })
	s.log.Info("supervisor runs", "pid", os.Getpid(), "program", cfg.Program)
	if cfg.Ready != nil {
		cfg.Ready()
	}
	s.log.Info("supervisor ends", "reason", s.stay(ctx, lock))
	return errors.Join(ignoreClosed(listener.Close()), s.close())
}

// stay returns why the supervisor is to end, once it is. It is woken by a tick, by the end of ctx and by who wants the end.
func (s *Supervisor) stay(ctx context.Context, lock *os.File) string {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	told := ctx.Done()
	for {
		select {
		case <-s.finished:
			return "it was told to"
		case <-told:
			told = nil
			tick.Reset(lookInterval / 10)
		case <-tick.C:
		}
		if s.mayEnd(ctx.Err() != nil) {
			return "nothing is left to do"
		}
		if !isAt(lock, s.config.Dir.WatchLock()) {
			return "the directory is gone"
		}
	}
}

// isAt tells whether path is still the file.
func isAt(file *os.File, path string) bool {
	there, err := os.Stat(path)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	ours, err := file.Stat()
	return err != nil || os.SameFile(there, ours)
}

// lockDir makes this process the supervisor of a directory. One that is just ending is waited for.
func lockDir(dir config.Dir) (*os.File, error) {
	file, err := os.OpenFile(dir.WatchLock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("supervisor: %w", err)
	}
	for end := time.Now().Add(lockTime); ; time.Sleep(lockInterval) {
		if err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", filepath.Dir(file.Name()), ErrRunning), file.Close())
	}
	if err := errors.Join(file.Truncate(0), writePID(file)); err != nil {
		return nil, errors.Join(fmt.Errorf("supervisor: %w", err), file.Close())
	}
	return file, nil
}

func writePID(file *os.File) error {
	_, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}
