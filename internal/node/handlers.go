package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"duet/internal/control"
	"duet/replication"
)

// handlerLimit is how long a handler may take; then it is killed, with what it started.
const handlerLimit = 30 * time.Second

// handlerOutputBytes is how much of a handler's output is kept for the log.
const handlerOutputBytes = 4096

// handlerIOError is run when a disk is given up under the policy "handler".
const handlerIOError = "local-io-error"

// diskFailed runs the handler, if the resource wants it to be run. The disk is given up without waiting for it.
func (n *Node) diskFailed(path string, f replication.DiskFailure) {
	if f.Policy != replication.OnIOErrorHandler {
		return
	}
	facts := map[string]string{"RESOURCE": f.Resource, "NODE": n.config.Name, "DEVICE": path, "ERROR": f.Cause.Error(), "ROLE": f.Role}
	n.loops.Go(func() {
		said, err := n.runHandler(n.ctx, handlerIOError, facts)
		message := "handler " + handlerIOError + " is done"
		if err != nil {
			message = fmt.Sprintf("handler %s: %v", handlerIOError, err)
			n.log.Error("handler", "name", handlerIOError, "resource", f.Resource, "error", err, "output", said)
		}
		n.journal.add(control.Event{Time: time.Now(), Resource: f.Resource, Kind: "handler", Message: message})
	})
}

// handlerSplitBrain is run, where it exists, when a peer returns with data of the other side of a split.
const handlerSplitBrain = "split-brain"

// splitBrain runs the handler, and does not wait for it.
func (n *Node) splitBrain(e replication.Event) {
	if _, err := os.Stat(filepath.Join(n.dir.Handlers(), handlerSplitBrain)); err != nil {
		return
	}
	facts := map[string]string{"RESOURCE": e.Resource, "NODE": n.config.Name, "PEER": e.Peer, "GENERATION": fmt.Sprint(e.Generation), "REASON": e.Reason}
	n.loops.Go(func() {
		if said, err := n.runHandler(n.ctx, handlerSplitBrain, facts); err != nil {
			n.log.Error("handler", "name", handlerSplitBrain, "resource", e.Resource, "error", err, "output", said)
		}
	})
}

// runHandler runs an executable of the node's directory with the facts in its environment, as DUET_ and their names, and
// returns the beginning of what it said.
func (n *Node) runHandler(ctx context.Context, name string, facts map[string]string) (said string, err error) {
	path := filepath.Join(n.dir.Handlers(), name)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is none: %s is missing", path)
	}
	ctx, cancel := context.WithTimeout(ctx, handlerLimit)
	defer cancel()
	command := exec.CommandContext(ctx, path)
	command.Env = os.Environ()
	for fact, value := range facts {
		command.Env = append(command.Env, "DUET_"+fact+"="+value)
	}
	var output limitedBuffer
	command.Stdout, command.Stderr = &output, &output
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = time.Second // for children that have left its group and keep its output open
	err = command.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("killed: %w", context.Cause(ctx))
	}
	return output.String(), err
}

// limitedBuffer keeps the first handlerOutputBytes.
type limitedBuffer struct{ bytes.Buffer }

// Write implements io.Writer.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := handlerOutputBytes - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
