package config

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrLocked is returned when another daemon runs in the directory.
var ErrLocked = errors.New("another daemon runs in this directory")

// ErrViewed is returned to a daemon that is to start while somebody looks into the directory.
var ErrViewed = errors.New("a command is looking into this directory; start again when it has ended")

// maxLockFileBytes is more than a process id takes.
const maxLockFileBytes = 64

// Lock is the right to be the daemon of a directory, or to look into it while
// there is none. It ends with Close or with the process, whichever comes first.
type Lock struct {
	file *os.File
}

// Lock takes the directory for this process, or says who has it. The file stays
// when the lock is given up; only the lock on it counts.
func (d Dir) Lock() (*Lock, error) {
	file, err := os.OpenFile(d.LockFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", d, err)
	}
	err = flock(file, unix.LOCK_EX)
	if errors.Is(err, unix.EWOULDBLOCK) {
		if err = ErrViewed; flock(file, unix.LOCK_SH) != nil {
			err = fmt.Errorf("%w%s; stop it first", ErrLocked, d.holder())
		}
	}
	if err == nil {
		err = note(file)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("directory %s: %w", d, err), file.Close())
	}
	return &Lock{file: file}, nil
}

// View keeps a daemon from starting in the directory while somebody looks into
// it, and fails with ErrLocked where one runs. It changes nothing.
func (d Dir) View() (*Lock, error) {
	file, err := os.Open(d.LockFile())
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", d, err)
	}
	err = flock(file, unix.LOCK_SH)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w%s; stop it first", ErrLocked, d.holder())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("directory %s: %w", d, err), file.Close())
	}
	return &Lock{file: file}, nil
}

// flock takes a lock or fails at once.
func flock(file *os.File, how int) error {
	for {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// note leaves our process id for the message to whom we keep out.
func note(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// holder names the process that has the lock, if it can be told.
func (d Dir) holder() string {
	content, err := readBounded(d.LockFile(), maxLockFileBytes)
	if err != nil {
		return ""
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}

// Close gives the directory up. Further calls do nothing.
func (l *Lock) Close() error {
	if err := l.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
