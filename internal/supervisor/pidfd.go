package supervisor

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openProcess returns a pidfd: a handle of the process that has this number now, and of no other one that gets it later.
func openProcess(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.EINVAL) { // a kernel before 5.10
		if fd, err = unix.PidfdOpen(pid, 0); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("pidfd of process %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("process %d", pid)), nil
}

// waitExit returns nil when the process is gone, with all its threads. Closing the pidfd ends it with an error.
func waitExit(pidfd *os.File) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Read(func(fd uintptr) bool {
		var gone bool
		gone, failure = hasExited(int(fd))
		return gone || failure != nil
	})
	return errors.Join(err, failure)
}

// hasExited looks whether the process is gone.
func hasExited(fd int) (bool, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return false, fmt.Errorf("poll a pidfd: %w", err)
		case fds[0].Revents&(unix.POLLNVAL|unix.POLLERR) != 0:
			return false, fmt.Errorf("poll a pidfd: events %#x", fds[0].Revents)
		}
		return fds[0].Revents&unix.POLLIN != 0, nil
	}
}
