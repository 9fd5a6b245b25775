package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"duet/internal/control"
)

// scripted is a node whose program is a shell script.
func scripted(t *testing.T, script string) *demoNode {
	t.Helper()
	dir := shortDir(t)
	n := &demoNode{name: "n1", dir: dir, log: filepath.Join(dir, "log"), binary: filepath.Join(dir, "program")}
	if err := os.WriteFile(n.binary, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.open()
	t.Cleanup(func() {
		n.client.Close()
		if err := n.kill(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// started waits until the script has said that it is there.
func started(t *testing.T, n *demoNode) {
	t.Helper()
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	err := waitFor(t.Context(), "the script", func(context.Context) error {
		if n.lastWords() != "here" {
			return errors.New(n.lastWords())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNodeFreezesAndDies(t *testing.T) {
	n := scripted(t, "echo here; exec tail -f /dev/null")
	started(t, n)
	if err := n.freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.thaw(); err != nil {
		t.Fatal(err)
	}
	if err := n.freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A process that stands still can be killed, and a dead one again.
	for range 2 {
		if err := n.kill(); err != nil {
			t.Fatal(err)
		}
	}
	if n.running() {
		t.Error("it runs")
	}
	if err := syscall.Kill(n.pid(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is there: %v", err)
	}
}

func TestNodeStops(t *testing.T) {
	for _, tt := range []struct{ name, script, words string }{
		{"in good order", "trap 'exit 0' TERM; mkfifo $0.fifo; echo here; read _ <>$0.fifo", ""},
		{"with an error", "trap 'echo sorry; exit 3' TERM; mkfifo $0.fifo; echo here; read _ <>$0.fifo", "sorry"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := scripted(t, tt.script)
			started(t, n)
			err := n.stop(t.Context())
			if (err == nil) != (tt.words == "") || err != nil && !strings.Contains(err.Error(), tt.words) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A daemon that ends instead of getting ready is reported at once, with what it said last.
func TestNodeEndsAtOnce(t *testing.T) {
	n := scripted(t, "echo first; echo no such luck; exit 1")
	if err := n.startReady(t.Context()); err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("got %v", err)
	}
}

func TestFreeAddresses(t *testing.T) {
	addresses, err := freeAddresses(5)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, address := range addresses {
		seen[address] = true
	}
	if len(seen) != 5 {
		t.Errorf("got %v", addresses)
	}
}

// A demonstration that fails says where, keeps its files and leaves no process behind.
func TestDemoFails(t *testing.T) {
	n := scripted(t, `case "$3" in init) echo no disk >&2; exit 1;; esac`)
	t.Setenv("TMPDIR", shortDir(t))
	err := runDemo(t.Context(), demoConfig{binary: n.binary, out: io.Discard})
	if control.ExitCode(err) != control.ExitFailed || !strings.Contains(err.Error(), "stage 1") || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("got %v", err)
	}
	entries, err := os.ReadDir(os.Getenv("TMPDIR"))
	if err != nil || len(entries) != 1 {
		t.Errorf("left are %v, %v", entries, err)
	}
}

func TestDemoRefusesADirectoryInUse(t *testing.T) {
	n := scripted(t, "exit 1")
	err := runDemo(t.Context(), demoConfig{binary: n.binary, dir: n.dir, out: io.Discard})
	if control.ExitCode(err) != control.ExitFailed || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("got %v", err)
	}
}

// A broken promise fails the demonstration even if all stages were passed.
func TestDemoBreach(t *testing.T) {
	d := &demo{demoConfig: demoConfig{dir: t.TempDir(), out: io.Discard}, ledger: newBlockLedger(1)}
	d.breach("block %d is lost", 3)
	if err := d.end(nil, true); control.ExitCode(err) != control.ExitFailed || !strings.Contains(err.Error(), "block 3 is lost") {
		t.Errorf("got %v", err)
	}
}
