package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Process is a daemon that was started here. Its output goes to a log file.
type Process struct {
	Name    string
	LogPath string

	command *exec.Cmd
	exited  chan struct{} // closed when the process has been collected
	state   *os.ProcessState
}

// StartProcess starts argv with its output appended to logPath. The process is killed when the one that started it
// dies, whichever way.
func StartProcess(name, logPath string, argv ...string) (*Process, error) {
	return startProcess(name, logPath, nil, argv)
}

// startProcess is StartProcess with an environment; nil stands for that of this process.
func startProcess(name, logPath string, environment, argv []string) (*Process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	command := exec.Command(argv[0], argv[1:]...)
	command.Stdout, command.Stderr, command.Env = log, log, environment
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = errors.Join(command.Start(), log.Close())
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, LogPath: logPath, command: command, exited: make(chan struct{})}
	go p.collect()
	return p, nil
}

// collect owns the wait for the process: it ends when the process does, and tells so by closing exited. The exit
// status is in state; an unsuccessful one is no failure of the wait.
func (p *Process) collect() {
	defer close(p.exited)
	if err := p.command.Wait(); err != nil && p.command.ProcessState == nil {
		return
	}
	p.state = p.command.ProcessState
}

// PID is the number of the process.
func (p *Process) PID() int { return p.command.Process.Pid }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Signal sends a signal. A process that has ended already is an error.
func (p *Process) Signal(signal syscall.Signal) error {
	if err := p.command.Process.Signal(signal); err != nil {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Kill ends the process the hard way and waits until it is gone. Killing one that has ended is no error.
func (p *Process) Kill() error {
	if err := p.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	<-p.exited
	return nil
}

// Terminate asks the process to end (SIGTERM) and waits for it. When ctx ends first the process is killed and that is
// the error; so is an exit status other than 0.
func (p *Process) Terminate(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s did not end on SIGTERM: %w", p.Name, ctx.Err()), p.Kill())
	}
	if p.state == nil || !p.state.Success() {
		return fmt.Errorf("%s ended on SIGTERM with %v", p.Name, p.state)
	}
	return nil
}

// MemoryBytes is the resident memory of the process.
func (p *Process) MemoryBytes() (uint64, error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID()), "status"))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		fields := strings.Fields(string(line))
		if len(fields) == 3 && fields[0] == "VmRSS:" {
			kib, err := strconv.ParseUint(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no VmRSS in the status of %s", p.Name)
}

// Tail returns the last lines of the log.
func (p *Process) Tail(lines int) string { return tail(p.LogPath, lines) }

func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}
