package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"duet/internal/config"
	"duet/replication"
)

func handlerNode(t *testing.T, script string) *Node {
	dir := config.Dir(t.TempDir())
	n := &Node{dir: dir, config: &config.Node{Name: "n1"}, log: slog.New(slog.DiscardHandler), journal: newJournal("n1")}
	n.ctx, n.cancel = context.WithCancel(t.Context())
	t.Cleanup(n.loops.Wait)
	if script == "" {
		return n
	}
	if err := os.MkdirAll(dir.Handlers(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir.Handlers(), handlerIOError), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return n
}

// The handler is told the facts; only under its policy is it run.
func TestHandlerIsToldTheFacts(t *testing.T) {
	n := handlerNode(t, `echo "$DUET_RESOURCE $DUET_NODE $DUET_DEVICE $DUET_ROLE $DUET_ERROR" >> "$0.out"`)
	failure := replication.DiskFailure{Resource: "r0", Policy: replication.OnIOErrorDetach, Role: "Primary", Cause: syscall.EIO}
	n.diskFailed("/srv/r0.img", failure)
	failure.Policy = replication.OnIOErrorHandler
	n.diskFailed("/srv/r0.img", failure)
	n.loops.Wait()
	got, err := os.ReadFile(filepath.Join(n.dir.Handlers(), handlerIOError+".out"))
	if want := "r0 n1 /srv/r0.img Primary input/output error\n"; err != nil || string(got) != want {
		t.Fatalf("%q, %v", got, err)
	}
}

// What hangs is ended with everything that it started; what fails, or is missing, is told.
func TestHandlerFails(t *testing.T) {
	for name, tt := range map[string]struct{ script, want string }{
		"missing": {"", "there is none"},
		"fails":   {"echo why; exit 3", "exit status 3"},
		"hangs":   {"sleep 600 & sleep 600", "killed"},
	} {
		t.Run(name, func(t *testing.T) {
			n := handlerNode(t, tt.script)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			said, err := n.runHandler(ctx, handlerIOError, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%q, %v", said, err)
			}
			if name == "fails" && said != "why\n" {
				t.Errorf("it said %q", said)
			}
			if name == "hangs" && !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
}
