package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// commandTimeout bounds every command of the operator: none takes longer on loopback, however busy the machine.
const commandTimeout = 60 * time.Second

// Node is one member of the cluster: its directory, its addresses, and its daemon while it runs.
type Node struct {
	Name    string
	Dir     string
	Address string // of the cluster's own connections
	NBD     string // of the NBD server; empty for a witness
	Witness bool
	// Environment is added to that of every run of the program; a change counts from the next run on.
	Environment []string
	// Before stands before the program from the next run of the daemon on, such as `unshare -T`. It must become the program,
	// not start it.
	Before []string
	// RunArguments are further arguments of `duet run` from the next run on.
	RunArguments []string
	argv         []string // the program, with what stands before it
	arguments    []string // extra arguments of `duet run`
	logPath      string
	process      *Process
}

// Result is what a command printed and how it ended.
type Result struct {
	Stdout, Stderr string
	ExitCode       int
}

// Command runs `duet --dir DIR ARGUMENT...` to its end. An exit status other than 0 is a result, not an error.
func (n *Node) Command(ctx context.Context, arguments ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	argv := slices.Concat(n.argv, []string{"--dir", n.Dir}, arguments)
	command := exec.CommandContext(ctx, argv[0], argv[1:]...)
	command.Env = n.environment()
	var stdout, stderr strings.Builder
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	result := Result{Stdout: stdout.String(), Stderr: stderr.String(), ExitCode: command.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		return result, fmt.Errorf("duet %s on %s: %w", strings.Join(arguments, " "), n.Name, ctx.Err())
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return result, err
	}
	return result, nil
}

// MustSucceed runs a command and turns an exit status other than 0 into an error.
func (n *Node) MustSucceed(ctx context.Context, arguments ...string) (string, error) {
	result, err := n.Command(ctx, arguments...)
	if err != nil {
		return "", err
	}
	if result.ExitCode != 0 {
		return "", fmt.Errorf("duet %s on %s: exit status %d: %s",
			strings.Join(arguments, " "), n.Name, result.ExitCode, strings.TrimSpace(result.Stderr))
	}
	return result.Stdout, nil
}

// Run starts the daemon, without waiting for it.
func (n *Node) Run() error {
	if n.Running() {
		return fmt.Errorf("%s runs already", n.Name)
	}
	last := len(n.argv) - 1
	argv := slices.Concat(n.argv[:last], n.Before, n.argv[last:], []string{"--dir", n.Dir, "run"}, n.arguments, n.RunArguments)
	process, err := startProcess(n.Name, n.LogPath(), n.environment(), argv)
	if err != nil {
		return err
	}
	n.process = process
	return nil
}

func (n *Node) environment() []string { return append(os.Environ(), n.Environment...) }

// Start starts the daemon and waits until it knows a leader.
func (n *Node) Start(ctx context.Context) error {
	if err := n.Run(); err != nil {
		return err
	}
	return n.WaitReady(ctx)
}

// WaitReady waits until the daemon answers and takes part in its cluster. It gives up at once when the daemon ends.
func (n *Node) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	process := n.process
	return WaitFor(ctx, n.Name+" to be ready", func() error {
		select {
		case <-process.Exited():
			err := fmt.Errorf("%s ended: %s", n.Name, process.Tail(5))
			cancel(err)
			return err
		default:
		}
		return n.takesPart(ctx)
	})
}

// takesPart says what is missing until the node is one of the cluster: it knows a leader, and the record knows that it
// runs.
func (n *Node) takesPart(ctx context.Context) error {
	if err := n.knowsLeader(ctx); err != nil {
		return err
	}
	text, err := n.MustSucceed(ctx, "node", "list", "--json")
	if err != nil {
		return err
	}
	var members []struct {
		Self    bool `json:"self"`
		Pending bool `json:"pending"`
	}
	if err := json.Unmarshal([]byte(text), &members); err != nil {
		return fmt.Errorf("node list is not as documented: %w: %.200s", err, text)
	}
	for _, member := range members {
		if member.Self && !member.Pending {
			return nil
		}
	}
	return fmt.Errorf("%s has not registered yet", n.Name)
}

func (n *Node) knowsLeader(ctx context.Context) error {
	text, err := n.MustSucceed(ctx, "quorum", "status", "--json")
	if err != nil {
		return err
	}
	var quorum struct {
		Leader string `json:"leader"`
	}
	if err := json.Unmarshal([]byte(text), &quorum); err != nil {
		return fmt.Errorf("quorum status is not as documented: %w: %.200s", err, text)
	}
	if quorum.Leader == "" {
		return fmt.Errorf("%s knows no leader", n.Name)
	}
	return nil
}

// Running is whether the daemon was started and has not ended.
func (n *Node) Running() bool {
	if n.process == nil {
		return false
	}
	select {
	case <-n.process.Exited():
		return false
	default:
		return true
	}
}

// Process is the daemon, nil before the first start.
func (n *Node) Process() *Process { return n.process }

// Kill ends the daemon as a crash does (SIGKILL).
func (n *Node) Kill() error {
	if n.process == nil {
		return nil
	}
	return n.process.Kill()
}

// Stop ends the daemon in good order (SIGTERM).
func (n *Node) Stop(ctx context.Context) error {
	if !n.Running() {
		return nil
	}
	return n.process.Terminate(ctx)
}

// Freeze stops the daemon without ending it (SIGSTOP), as a hung machine would.
func (n *Node) Freeze() error { return n.process.Signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (n *Node) Thaw() error { return n.process.Signal(syscall.SIGCONT) }

// Status asks the daemon for its state.
func (n *Node) Status(ctx context.Context) (*Status, error) {
	text, err := n.MustSucceed(ctx, "status", "--json")
	if err != nil {
		return nil, err
	}
	return parseStatus([]byte(text))
}

// Resource asks the daemon for the state of one resource.
func (n *Node) Resource(ctx context.Context, name string) (*Resource, error) {
	status, err := n.Status(ctx)
	if err != nil {
		return nil, err
	}
	resource := status.Resource(name)
	if resource == nil {
		return nil, fmt.Errorf("%s has no resource %s", n.Name, name)
	}
	return resource, nil
}

// ResyncStatus asks the daemon for the progress of a resource's resync.
func (n *Node) ResyncStatus(ctx context.Context, name string) (*Resync, error) {
	text, err := n.MustSucceed(ctx, "resync", "status", name, "--json")
	if err != nil {
		return nil, err
	}
	resync := new(Resync)
	if err := json.Unmarshal([]byte(text), resync); err != nil {
		return nil, fmt.Errorf("resync status is not as documented: %w: %.200s", err, text)
	}
	return resync, nil
}

// URI is the NBD URI of a resource on this node over TCP.
func (n *Node) URI(resource string) string { return "nbd://" + n.NBD + "/" + resource }

// UnixURI is the NBD URI of a resource on this node over its unix socket.
func (n *Node) UnixURI(resource string) string {
	return "nbd+unix:///" + resource + "?socket=" + filepath.Join(n.Dir, "nbd.sock")
}

// LogPath is the file that has what the daemon said, over all its runs.
func (n *Node) LogPath() string { return n.logPath }

// Log is what the daemon said, over all its runs.
func (n *Node) Log() (string, error) {
	text, err := os.ReadFile(n.LogPath())
	return string(text), err
}
