package tests

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"duet/tests/cluster"
)

// certificateRounds is how often the daemon is killed for the median.
const certificateRounds = 10

// supervisorEvent is an event that a supervisor is the cause of.
type supervisorEvent struct {
	Time    time.Time `json:"time"`
	Peer    string    `json:"peer"`
	Kind    string    `json:"kind"` // "supervisor" or "exit"
	New     string    `json:"new"`
	Message string    `json:"message"`
}

// supervisorEvents are those of a peer's supervisor that a node remembers.
func supervisorEvents(ctx context.Context, n *cluster.Node, peer string) ([]supervisorEvent, error) {
	text, err := n.MustSucceed(ctx, "events", "--json")
	if err != nil {
		return nil, err
	}
	var events []supervisorEvent
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		var e supervisorEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("events are not as documented: %w: %.200s", err, lines.Bytes())
		}
		if e.Peer == peer && (e.Kind == "supervisor" || e.Kind == "exit") {
			events = append(events, e)
		}
	}
	return events, nil
}

// supervised waits until a node knows that an incarnation of another one is watched.
func (s *scenario) supervised(n *cluster.Node, peer string, incarnation int) {
	s.t.Helper()
	s.supervisorSays(n, peer, "supervisor", fmt.Sprintf("incarnation %d of", incarnation))
}

// supervisorSays waits for an event, the newest of its kind, and returns it.
func (s *scenario) supervisorSays(n *cluster.Node, peer, kind, text string) supervisorEvent {
	s.t.Helper()
	var found supervisorEvent
	s.within(settleTimeout, func(ctx context.Context) error {
		return cluster.WaitFor(ctx, fmt.Sprintf("%s to hear %s, %q, of %s", n.Name, kind, text, peer), func() error {
			events, err := supervisorEvents(ctx, n, peer)
			if err != nil {
				return err
			}
			for _, e := range slices.Backward(events) {
				if e.Kind == kind && strings.Contains(e.Message, text) {
					found = e
					return nil
				}
			}
			return fmt.Errorf("there are %v", events)
		})
	})
	return found
}

// certificates counts those that a node has taken of another one.
func (s *scenario) certificates(n *cluster.Node, peer string) int {
	s.t.Helper()
	events, err := supervisorEvents(s.t.Context(), n, peer)
	if err != nil {
		s.t.Fatal(err)
	}
	count := 0
	for _, e := range events {
		if e.Kind == "exit" {
			count++
		}
	}
	return count
}

// When a daemon is killed, its supervisor tells every other node so, within milliseconds. The same supervisor watches the next one.
func TestExitCertificate(t *testing.T) {
	for name, links := range map[string]options{"TLS": func(*cluster.Config) {}, "plaintext": plaintext} {
		t.Run(name, func(t *testing.T) {
			s := start(t, links)
			a := s.Node("a")
			others := []*cluster.Node{s.Node("b"), s.Node("witness")}
			var took []time.Duration
			var first int
			for i := range certificateRounds {
				for _, n := range others {
					s.supervised(n, "a", i+1)
				}
				if pid := s.supervisor(a); i == 0 {
					first = pid
				} else if pid != first {
					t.Errorf("the supervisor was %d, now it is %d", first, pid)
				}
				killed := time.Now()
				s.kill(a)
				for _, n := range others {
					e := s.supervisorSays(n, "a", "exit", fmt.Sprintf("incarnation %d of a has ended", i+1))
					took = append(took, e.Time.Sub(killed))
				}
				s.restart(a)
			}
			slices.Sort(took)
			t.Logf("from kill -9 to the certificate on another node: median %v, longest %v of %d",
				took[len(took)/2].Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond), len(took))
			for _, n := range others {
				if count := s.certificates(n, "a"); count != certificateRounds {
					t.Errorf("%s has %d certificates", n.Name, count)
				}
			}
		})
	}
}

// supervisor is the process id of a node's supervisor.
func (s *scenario) supervisor(n *cluster.Node) int {
	s.t.Helper()
	process, err := n.Supervisor()
	if err != nil || process == nil {
		s.t.Fatalf("%s has no supervisor: %v", n.Name, err)
	}
	pid := process.Pid
	if err := process.Release(); err != nil {
		s.t.Error(err)
	}
	return pid
}

// What is no exit of the daemon is not certified: a stop in good order, a daemon that hangs, the loss of the supervisor itself, which
// the daemon replaces.
func TestNoFalseExitCertificate(t *testing.T) {
	s := start(t)
	a, b := s.Node("a"), s.Node("b")
	s.create("r0", "64MiB")
	s.supervised(b, "a", 1)
	s.stop(a)
	s.restart(a)
	s.supervised(b, "a", 2)

	former := s.supervisor(a)
	if err := a.KillSupervisor(); err != nil {
		t.Fatal(err)
	}
	s.supervisorGoneAndBack(b, "a")
	if pid := s.supervisor(a); pid == former {
		t.Errorf("the supervisor is %d, as before", pid)
	}
	if err := a.Freeze(); err != nil {
		t.Fatal(err)
	}
	if count := s.certificates(b, "a"); count != 0 {
		t.Errorf("%d certificates of a process that lives, or has ended in good order", count)
	}
	killed := time.Now()
	s.kill(a) // as it stands still: the new supervisor sees it end
	e := s.supervisorSays(b, "a", "exit", "incarnation 2 of a")
	t.Logf("certified %v after the kill", e.Time.Sub(killed).Round(10*time.Microsecond))
}

// supervisorGoneAndBack waits until a node has heard that the supervisor of another one was replaced.
func (s *scenario) supervisorGoneAndBack(n *cluster.Node, peer string) {
	s.t.Helper()
	s.within(settleTimeout, func(ctx context.Context) error {
		return cluster.WaitFor(ctx, "the new supervisor to be heard", func() error {
			events, err := supervisorEvents(ctx, n, peer)
			if err != nil {
				return err
			}
			gone := slices.IndexFunc(events, func(e supervisorEvent) bool { return e.New == "gone" })
			if gone < 0 || events[len(events)-1].New != "watching" {
				return fmt.Errorf("there are %v", events)
			}
			return nil
		})
	})
}

// The supervisor has nothing of the daemon's but its directory: no port, no file, no terminal, no session.
func TestSupervisorIsDetached(t *testing.T) {
	s := start(t)
	a := s.Node("a")
	s.supervised(s.Node("b"), "a", 1)
	pid := s.supervisor(a)
	proc := filepath.Join("/proc", fmt.Sprint(pid))
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if err != nil {
			continue // it was closed meanwhile
		}
		if strings.Contains(target, a.LogPath()) || strings.HasSuffix(target, "/control.sock") || strings.HasPrefix(target, "pipe:") {
			t.Errorf("descriptor %s is %s", fd.Name(), target)
		}
	}
	if session, err := unix.Getsid(pid); err != nil || session != pid {
		t.Errorf("its session is %d, %v", session, err)
	}
	s.kill(a)
	s.restart(a) // nothing of the former daemon's ports is held

	// It takes SIGTERM as the wish to end when the daemon has, and not before.
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.supervised(s.Node("b"), "a", 2)
	s.kill(a)
	s.supervisorSays(s.Node("b"), "a", "exit", "incarnation 2 of a")
	s.within(settleTimeout, func(ctx context.Context) error {
		return cluster.WaitFor(ctx, "the supervisor to end", func() error { return stillThere(pid) })
	})
}

// stillThere is an error while a process runs.
func stillThere(pid int) error {
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return errors.New("it is still there")
}

// With --supervisor=false there is none.
func TestWithoutSupervisor(t *testing.T) {
	s := start(t, func(c *cluster.Config) { c.RunArguments = []string{"--supervisor=false"} })
	for _, n := range s.Nodes {
		if process, err := n.Supervisor(); process != nil || err != nil {
			t.Errorf("%s: %v, %v", n.Name, process, err)
		}
		if _, err := os.Stat(filepath.Join(n.Dir, "watch.sock")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", n.Name, err)
		}
	}
}
