package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
)

// socketMode lets the daemon's user in and nobody else.
const socketMode = 0o600

// ListenLocal listens on a unix socket that only this user may open. A socket that an earlier daemon left is replaced:
// the caller must hold the lock of the node's directory, so that it is not one in use.
func ListenLocal(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace the control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(fmt.Errorf("close the control socket to others: %w", err), l.Close())
	}
	return l, nil
}
