package handlers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// outputBytes is how much of a handler's output is kept.
const outputBytes = 4096

// Has tells whether an event has a handler.
func (e *Engine) Has(event Event) bool {
	paths, err := e.find(event)
	return err != nil || len(paths) > 0
}

// find lists the executables of an event: DIR/EVENT, then those of DIR/EVENT.d by name. What is not executable is switched
// off; a link that leads nowhere is a handler that fails.
func (e *Engine) find(event Event) ([]string, error) {
	single := filepath.Join(e.cfg.Dir, string(event))
	candidates := []string{single}
	entries, err := os.ReadDir(single + ".d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries { // sorted by name
		if !strings.HasPrefix(entry.Name(), ".") && !strings.HasSuffix(entry.Name(), "~") {
			candidates = append(candidates, filepath.Join(single+".d", entry.Name()))
		}
	}
	var paths []string
	for _, path := range candidates {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// runAll runs the handlers of an event within its time limit. Where one failure is not the end, the first counts. Of
// fence-peer, one that confirms is enough.
func (e *Engine) runAll(t *task) Outcome {
	begin := time.Now()
	o := Outcome{Event: t.event, Facts: t.facts, Code: -1}
	paths, err := e.find(t.event)
	if err != nil || len(paths) == 0 {
		o.Err, o.None = err, err == nil
		return o
	}
	ctx, cancel := context.WithTimeoutCause(t.ctx, t.limit, errLimit)
	defer cancel()
	all := e.kinds[t.event].all || t.facts.Forced
	for i, path := range paths {
		said, err := e.runOne(ctx, path, t)
		if err != nil {
			e.cfg.Logger.Error("handler", "path", path, "resource", t.facts.Resource, "error", err, "output", said)
		} else {
			e.cfg.Logger.Info("handler", "path", path, "resource", t.facts.Resource, "output", said)
		}
		if confirmed := t.event == FencePeer && err == nil; i == 0 || confirmed || o.Err == nil {
			o.Err, o.Said, o.Code = err, said, exitCode(err)
		}
		if t.event == FencePeer && err == nil || err != nil && !all {
			break
		}
	}
	o.Took = time.Since(begin)
	return o
}

// runOne runs one executable to its end or to that of ctx; then it is killed, with all of its process group.
func (e *Engine) runOne(ctx context.Context, path string, t *task) (said string, err error) {
	if ctx.Err() != nil {
		return "", fmt.Errorf("not begun: %w", context.Cause(ctx))
	}
	var output boundedOutput
	command := exec.Command(path)
	command.Env, command.Dir = e.environment(t), e.cfg.Dir
	command.Stdout, command.Stderr = &output, &output
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.WaitDelay = time.Second // for those who have left its group and keep its output open
	if err := command.Start(); err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }() // ends with the process: kill sees to that, as far as the kernel lets it
	select {
	case err := <-ended:
		if errors.Is(err, exec.ErrWaitDelay) { // it has done its part; what it has started goes on
			err = nil
		}
		return output.String(), err
	case <-ctx.Done():
	}
	why := fmt.Errorf("killed: %w", context.Cause(ctx))
	if err := syscall.Kill(-command.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		why = errors.Join(why, err)
	}
	timer := time.NewTimer(reap)
	defer timer.Stop()
	select {
	case state := <-ended:
		e.cfg.Logger.Debug("killed handler", "path", path, "state", state)
	case <-timer.C:
		why = fmt.Errorf("%w; process %d has not ended yet", why, command.Process.Pid)
	}
	return output.String(), why
}

// exitCode is the status of a process that ended by itself; -1 if none did.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// boundedOutput keeps the first outputBytes. A process that was left behind may still write.
type boundedOutput struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (b *boundedOutput) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := outputBytes - len(b.text); room > 0 {
		b.text = append(b.text, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// String is what was kept.
func (b *boundedOutput) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// lastLine is the last line of an output that says something: of a script's, the one that says why it ended.
func lastLine(said string) string {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
