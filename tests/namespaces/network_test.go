package namespaces

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

func network(t *testing.T, hosts ...string) *Network {
	t.Helper()
	if err := Available(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	n, err := New(t.Context(), hosts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// answers is whether a connection from one host reaches a port nobody listens on at another: the refusal proves both directions.
func answers(t *testing.T, n *Network, from, to string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	conn, err := n.Dial(ctx, from, net.JoinHostPort(n.Address(to), "9"))
	if err == nil {
		t.Fatalf("somebody listens at %v", conn.RemoteAddr())
	}
	var timeout net.Error
	return ctx.Err() == nil && (!errors.As(err, &timeout) || !timeout.Timeout())
}

func TestCutsAreOfOnePair(t *testing.T) {
	n := network(t, "a", "b", "c")
	cuts := []struct {
		name string
		cuts []Cut
	}{{"none", nil}, {"both ways", Both("a", "b")}, {"there", []Cut{{"a", "b"}}}, {"back", []Cut{{"b", "a"}}}}
	for _, tt := range cuts {
		t.Run(tt.name, func(t *testing.T) {
			if err := n.Cut(t.Context(), tt.cuts...); err != nil {
				t.Fatal(err)
			}
			if got, want := answers(t, n, "a", "b"), len(tt.cuts) == 0; got != want {
				t.Errorf("a reaches b: %v", got)
			}
			if !answers(t, n, "a", "c") || !answers(t, n, "c", "b") {
				t.Error("others are cut off, too")
			}
			if err := n.Heal(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
	if !answers(t, n, "a", "b") || !answers(t, n, "b", "a") {
		t.Error("healing does not heal")
	}
}

func TestSweepRemovesWhatTheDeadLeft(t *testing.T) {
	network(t) // for its skip
	dead := exec.CommandContext(t.Context(), "true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	left := prefix + strconv.Itoa(dead.Process.Pid) + "-1-a"
	own := prefix + strconv.Itoa(os.Getpid()) + "-0-a"
	for _, name := range []string{left, own} {
		if output, err := exec.CommandContext(t.Context(), "ip", "netns", "add", name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
	}
	sleeper := exec.CommandContext(t.Context(), "ip", "netns", "exec", left, "sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		pids, err := exec.CommandContext(t.Context(), "ip", "netns", "pids", left).Output()
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(pids)) != "" {
			break
		}
	}
	if err := Sweep(); err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the process in it ended with %v", err)
	}
	if _, err := os.Stat("/run/netns/" + left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", left, err)
	}
	if _, err := os.Stat("/run/netns/" + own); err != nil {
		t.Errorf("%s is gone: %v", own, err)
	}
	if err := remove(own); err != nil {
		t.Error(err)
	}
}

func TestMaker(t *testing.T) {
	for name, want := range map[string]int{prefix + "12-3-a": 12, "other-12-3-a": 0, prefix + "x": 0, prefix + "-5-a": 0} {
		if pid, ours := maker(name); pid != want && ours {
			t.Errorf("%s was made by %d", name, pid)
		}
	}
}
