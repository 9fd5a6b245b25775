package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxSocketPathBytes is what a unix socket's address holds, less the final zero.
const maxSocketPathBytes = 107

// ErrNoNode is returned when a directory isn't that of a node (yet).
var ErrNoNode = errors.New("no node here")

// ErrNodeExists is returned when a directory is to become a node's and is one.
var ErrNodeExists = errors.New("there is a node here already")

// Dir is a node's directory. The package documentation says what is in it.
type Dir string

// NodeFile returns the path of node.yaml.
func (d Dir) NodeFile() string { return d.path("node.yaml") }

// IncarnationFile returns the path of the counter of starts.
func (d Dir) IncarnationFile() string { return d.path("incarnation") }

// MemberFile returns the path of the mark of a member.
func (d Dir) MemberFile() string { return d.path("member") }

// RecoveryFile returns the path of the number of recoveries before this node joined.
func (d Dir) RecoveryFile() string { return d.path("recovery") }

// LockFile returns the path of the file that the running daemon holds.
func (d Dir) LockFile() string { return d.path("lock") }

// WatchLock returns the path of the file that the running supervisor holds.
func (d Dir) WatchLock() string { return d.path("watch.lock") }

// WatchSocket returns the path of the socket on which the supervisor serves the daemon.
func (d Dir) WatchSocket() string { return d.path("watch.sock") }

// WatchLog returns the path of the supervisor's log.
func (d Dir) WatchLog() string { return d.path("watch.log") }

// TLS returns the directory of certificates and keys.
func (d Dir) TLS() string { return d.path("tls") }

// Raft returns the directory of the Raft log.
func (d Dir) Raft() string { return d.path("raft") }

// Meta returns the directory of replicas' metadata.
func (d Dir) Meta() string { return d.path("meta") }

// Undo returns the directory of undo files; it is made when the first one is.
func (d Dir) Undo() string { return d.path("undo") }

// Handlers returns the directory of executables that are run on events.
func (d Dir) Handlers() string { return d.path("handlers") }

// ControlSocket returns the path of the control interface.
func (d Dir) ControlSocket() string { return d.path("control.sock") }

// NBDSocket returns the path of the local NBD server.
func (d Dir) NBDSocket() string { return d.path("nbd.sock") }

func (d Dir) path(name string) string { return filepath.Join(string(d), name) }

// Exists tells whether the directory is that of a node.
func (d Dir) Exists() (bool, error) {
	_, err := os.Stat(d.NodeFile())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Create makes the directory and those below it, for this user alone. It
// refuses one that a node has already, and one too deep for its sockets.
func (d Dir) Create() error { return d.create(osFiles{}) }

func (d Dir) create(on files) error {
	if err := d.CheckSockets(); err != nil {
		return err
	}
	exists, err := d.Exists()
	if err != nil {
		return fmt.Errorf("directory %s: %w", d, err)
	}
	if exists {
		return fmt.Errorf("directory %s: %w; choose another with --dir", d, ErrNodeExists)
	}
	for _, path := range []string{string(d), d.TLS(), d.Raft(), d.Meta(), d.Handlers()} {
		if err := makeDirectory(on, path); err != nil {
			return fmt.Errorf("directory %s: %w", d, err)
		}
	}
	return nil
}

// CheckSockets tells whether the paths of the sockets fit into an address.
func (d Dir) CheckSockets() error {
	absolute, err := filepath.Abs(d.ControlSocket())
	if err != nil {
		return fmt.Errorf("directory %s: %w", d, err)
	}
	if len(absolute) > maxSocketPathBytes {
		return fmt.Errorf("directory %s: the path of its socket has %d bytes, a unix socket allows %d; choose a shorter --dir",
			d, len(absolute), maxSocketPathBytes)
	}
	return nil
}
