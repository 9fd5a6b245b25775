package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Supervisor returns the process of the node's supervisor, as its lock file has it; nil when there is none.
func (n *Node) Supervisor() (*os.Process, error) {
	text, err := os.ReadFile(filepath.Join(n.Dir, "watch.lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, nil // it is just being written
	}
	// The number in the file may be that of a process long gone: the handle is taken first, then it is looked at what it is.
	process, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	if !n.supervises(pid) {
		return nil, process.Release()
	}
	return process, nil
}

// supervises tells whether a process is a supervisor of the node's directory.
func (n *Node) supervises(pid int) bool {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	var words []string
	for word := range bytes.SplitSeq(line, []byte{0}) {
		words = append(words, string(word))
	}
	return slices.Contains(words, "supervise") && slices.Contains(words, n.Dir)
}

// KillSupervisor ends the node's supervisor the hard way, if there is one.
func (n *Node) KillSupervisor() error {
	process, err := n.Supervisor()
	if process == nil || err != nil {
		return err
	}
	if err := process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the supervisor of %s: %w", n.Name, err)
	}
	return process.Release()
}
