package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/supervisor"
)

// demoPeerTimeout is far above what the demonstration takes to stop a node and kill the other: while n2 stands still,
// n1 must not give it up.
const demoPeerTimeout = time.Minute

// stopTimeout bounds an orderly end of a daemon.
const stopTimeout = 15 * time.Second

// demoNode is one node of the demonstration: a directory, and a daemon while it runs.
type demoNode struct {
	name, binary   string
	dir, log, disk string
	address, nbd   string // nbd is empty for the witness
	outlive        bool   // the daemon may outlive this process
	client         *control.Client
	process        *exec.Cmd
	exited         chan struct{} // closed when the process has ended
	exitErr        error         // valid after exited
}

func (n *demoNode) open() {
	n.client = control.NewLocalClient(n.dir, config.Dir(n.dir).ControlSocket())
}

// command runs `duet --dir DIR ARGUMENT...` and returns what it printed.
func (n *demoNode) command(ctx context.Context, arguments ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, n.binary, append([]string{"--dir", n.dir}, arguments...)...)
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("duet %s on %s: %w: %s", arguments[0], n.name, err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// configure replaces the times in node.yaml that the demonstration needs longer.
func (n *demoNode) configure() error {
	dir := config.Dir(n.dir)
	node, err := dir.LoadNode()
	if err != nil {
		return err
	}
	node.PeerTimeout, node.Suspect = demoPeerTimeout, demoPeerTimeout
	return dir.SaveNode(node)
}

// start starts the daemon. In a process group of its own it does not get the terminal's Ctrl-C: ending it is up to the
// demonstration, whose own end it does not outlive unless it is to be kept.
func (n *demoNode) start() (err error) {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	process := exec.Command(n.binary, "--dir", n.dir, "run")
	process.Stdout, process.Stderr = log, log
	process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !n.outlive {
		process.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := process.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	n.process, n.exited = process, exited
	// This goroutine owns the wait for the process and ends with it.
	go func() {
		n.exitErr = process.Wait()
		close(exited)
	}()
	return nil
}

// startReady starts the daemon and waits until it knows a leader.
func (n *demoNode) startReady(ctx context.Context) error {
	if err := n.start(); err != nil {
		return err
	}
	return waitFor(ctx, n.name+" to know a leader", func(ctx context.Context) error {
		if !n.running() {
			return &hopeless{fmt.Errorf("the daemon ended: %w: %s", n.exitErr, n.lastWords())}
		}
		status, err := n.client.Status(ctx)
		if err == nil && status.Quorum.Leader == "" {
			err = errors.New("it knows none")
		}
		return err
	})
}

func (n *demoNode) running() bool {
	if n.process == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

func (n *demoNode) pid() int { return n.process.Process.Pid }

// kill ends the daemon as a crash would, and waits for its end. It does nothing when none runs.
func (n *demoNode) kill() error {
	if !n.running() {
		return nil
	}
	if err := n.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-n.exited
	return nil
}

// endSupervisor ends what `duet run` has left behind on purpose.
func (n *demoNode) endSupervisor() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return supervisor.End(ctx, config.Dir(n.dir))
}

// stop ends the daemon in good order.
func (n *demoNode) stop(ctx context.Context) error {
	if err := n.process.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", n.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	select {
	case <-n.exited:
	case <-ctx.Done():
		return fmt.Errorf("%s has not ended after SIGTERM: %w", n.name, ctx.Err())
	}
	if n.exitErr != nil {
		return fmt.Errorf("%s ended after SIGTERM with %w: %s", n.name, n.exitErr, n.lastWords())
	}
	return nil
}

// freeze stops the daemon from running, and returns when it stands still.
func (n *demoNode) freeze(ctx context.Context) error {
	if err := n.process.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return waitFor(ctx, n.name+" to stand still", func(context.Context) error {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(n.pid()) + "/stat")
		if err != nil {
			return err
		}
		// The state follows the program's name, which is in parentheses.
		_, rest, _ := strings.Cut(string(stat), ") ")
		if !strings.HasPrefix(rest, "T") {
			return errors.New("it runs")
		}
		return nil
	})
}

// thaw lets a frozen daemon go on.
func (n *demoNode) thaw() error { return n.process.Process.Signal(syscall.SIGCONT) }

// resource returns this node's status of the demonstration's resource.
func (n *demoNode) resource(ctx context.Context) (*control.ResourceStatus, error) {
	status, err := n.client.Status(ctx)
	if err != nil {
		return nil, err
	}
	found, err := selectResource(status.Resources, demoResource)
	if err != nil {
		return nil, err
	}
	return &found[0], nil
}

// lastWords is the last line of the log.
func (n *demoNode) lastWords() string {
	text, err := os.ReadFile(n.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// waitInterval is how often a condition is looked at.
const waitInterval = 10 * time.Millisecond

// waitTimeout bounds every wait for a condition.
const waitTimeout = 20 * time.Second

// hopeless is an error that no waiting will cure.
type hopeless struct{ cause error }

func (h *hopeless) Error() string { return h.cause.Error() }
func (h *hopeless) Unwrap() error { return h.cause }

// waitFor waits until reached returns nil, and says what it returned last when that takes too long.
func waitFor(ctx context.Context, what string, reached func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	ticker := time.NewTicker(waitInterval)
	defer ticker.Stop()
	var last error
	for {
		err := reached(ctx)
		var final *hopeless
		switch {
		case err == nil:
			return nil
		case errors.As(err, &final):
			return fmt.Errorf("wait for %s: %w", what, final.cause)
		case ctx.Err() == nil:
			last = err // what the end of the context itself causes says nothing
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, ctx.Err(), last)
		}
	}
}

// Ports are taken from below the range that the kernel uses for outgoing connections: there, any client could take the
// port of a node that is down for a moment.
const (
	firstDemoPort = 20000
	lastDemoPort  = 32000
	portAttempts  = 200
)

// freeAddresses finds loopback addresses on which nobody listens. All are held until the last is found, so they differ.
func freeAddresses(count int) (addresses []string, err error) {
	for range portAttempts {
		port := strconv.Itoa(firstDemoPort + rand.IntN(lastDemoPort-firstDemoPort))
		listener, failure := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if errors.Is(failure, syscall.EADDRINUSE) {
			continue
		}
		if failure != nil {
			return nil, failure
		}
		defer func() { err = errors.Join(err, listener.Close()) }()
		if addresses = append(addresses, listener.Addr().String()); len(addresses) == count {
			return addresses, nil
		}
	}
	return nil, fmt.Errorf("there are no %d free ports on 127.0.0.1", count)
}
