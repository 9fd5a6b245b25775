package managers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"duet/tests/cluster"
)

// resourceScript is Heartbeat's script on one node.
type resourceScript struct {
	s           *scenario
	node        *cluster.Node
	environment []string
}

func (s *scenario) resourceScript(n *cluster.Node) *resourceScript {
	return &resourceScript{s: s, node: n, environment: append(os.Environ(), "DUET_BINARY="+duetPath(s.t))}
}

// want calls the script as Heartbeat does, with the node's directory as a parameter, and checks how it ends and what it prints.
func (r *resourceScript) want(code int, action, words string) {
	r.s.t.Helper()
	ctx, cancel := context.WithTimeout(r.s.t.Context(), 3*settleTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, "../../scripts/heartbeat/duet", "r0", r.node.Dir, action)
	command.Env = r.environment
	if code != 0 { // what is refused is asked for until the time is up
		command.Env = append(slices.Clone(command.Env), "DUET_START_SECONDS=4", "DUET_STOP_SECONDS=4")
	}
	output, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		r.s.t.Fatalf("%s on %s: %v\n%s", action, r.node.Name, errors.Join(err, ctx.Err()), output)
	}
	if got := command.ProcessState.ExitCode(); got != code || !strings.Contains(string(output), words) {
		r.s.t.Fatalf("%s on %s: exit code %d, want %d, and %q in %s", action, r.node.Name, got, code, words, output)
	}
}

// The resource script of Heartbeat, called as its ResourceManager calls it: the words of status, the guards of start, the certainty of
// stop.
func TestHeartbeatScript(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := start(t, "manual")
	a, b := s.resourceScript(s.Node("a")), s.resourceScript(s.Node("b"))
	a.want(3, "status", "stopped")
	a.want(0, "stop", "")
	a.want(0, "start", "")
	a.want(0, "start", "")
	a.want(0, "status", "running")
	s.hideSocket(a.node, func() {
		a.want(4, "status", "unknown")
		a.want(1, "stop", "the daemon is not running")
	})
	b.want(1, "start", "a is Primary of r0 and answers")
	b.want(3, "status", "stopped")
	a.want(0, "stop", "")
	b.want(0, "start", "")
	a.want(1, "start", "b is Primary of r0 and answers")

	if err := s.Node("b").Freeze(); err != nil {
		t.Fatal(err)
	}
	b.want(4, "status", "unknown")
	b.want(1, "stop", "not Secondary after 4 seconds")
	if err := s.Node("b").Thaw(); err != nil {
		t.Fatal(err)
	}
	b.want(0, "stop", "") // what was asked for while it hung may be done only now
	b.want(0, "start", "")

	// b writes alone, then it is gone: a is behind and stays what it is.
	s.kill(s.Node("a"))
	r := s.ledger()
	r.write(s.Node("b"), 100)
	s.kill(s.Node("b"))
	b.want(3, "status", "stopped")
	b.want(0, "stop", "")
	b.want(1, "start", "the daemon is not running")
	s.restart(s.Node("a"))
	a.want(1, "start", "not in sync")
	a.want(3, "status", "stopped")
	s.restart(s.Node("b"))
	b.want(0, "start", "")
	r.verify(s.Node("b"))
	s.inSync()
	b.want(0, "stop", "")

	for _, arguments := range [][]string{{"r0"}, {"r0", "x", "y", "start"}, {"r0", "reload"}, {"--force", "start"}} {
		output, err := exec.CommandContext(t.Context(), "../../scripts/heartbeat/duet", arguments...).CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(output), "usage") {
			t.Errorf("%v: %v, %s", arguments, err, output)
		}
	}
}

// A resource that duet promotes by itself is none for Heartbeat.
func TestHeartbeatScriptRefusesAuto(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := start(t, "auto")
	a := s.resourceScript(s.Node("a"))
	a.want(1, "start", "promotion policy auto")
	a.want(3, "status", "stopped")
}

// heartbeatProgram is Heartbeat itself, from Debian's package.
const heartbeatProgram = "/usr/libexec/heartbeat/heartbeat"

// heartbeats is two machines with Heartbeat.
type heartbeats struct{ *machines }

func (s *scenario) heartbeats(group string) *heartbeats {
	s.t.Helper()
	if _, err := os.Stat(heartbeatProgram); err != nil {
		missing(s.t, "heartbeat is not installed (.ci/packages names it)")
	}
	h := &heartbeats{s.machines("hb")}
	for _, n := range s.DataNodes() {
		h.configure(n, group)
	}
	return h
}

// configure gives the node Heartbeat's configuration and the resource script.
func (h *heartbeats) configure(n *cluster.Node, group string) {
	t, root := h.s.t, h.root(n)
	t.Helper()
	run(t, "cp", "-a", "/var/lib/heartbeat", filepath.Join(root, "lib"))
	run(t, "cp", "../../scripts/heartbeat/duet", filepath.Join(root, "etc/ha.d/resource.d/duet"))
	for name, text := range map[string]string{
		"ha.d/ha.cf": "logfile " + h.logPath(n) + "\ndebugfile " + h.logPath(n) + ".debug\nrealtime off\nkeepalive 200ms\nwarntime 2\ndeadtime 4\ninitdead 8\n" +
			"udpport 694\nucast link0 10.99.0.1\nucast link0 10.99.0.2\nauto_failback off\nnode a b\ncrm no\n",
		"ha.d/authkeys":    "auth 1\n1 sha1 test\n",
		"ha.d/haresources": group + "\n",
		"default/duet":     "DUET_BINARY=" + duetPath(t) + "\nDUET_DIR=" + n.Dir + "\nDUET_START_SECONDS=5\n",
	} {
		h.write(n, name, text)
	}
}

// begin starts Heartbeat on a node. It puts itself into the background; what stays in front holds the namespaces.
func (h *heartbeats) begin(n *cluster.Node) {
	h.s.t.Helper()
	h.boot(n, `mount --bind "$2/lib" /var/lib/heartbeat
mkdir -p /run/heartbeat/ccm /run/heartbeat/dopd /run/heartbeat/rsctmp /run/resource-agents /run/lock/subsys
chown -R hacluster:haclient /run/heartbeat
`+heartbeatProgram+`
exec sleep infinity`)
}

// waitRole waits until a node has the role.
func (s *scenario) waitRole(n *cluster.Node, role string) {
	s.t.Helper()
	s.until(n, n.Name+" to be "+role, func(r *cluster.Resource) error {
		if r.Role != role {
			return fmt.Errorf("%s is %s", n.Name, r.Role)
		}
		return nil
	})
}

// Debian's Heartbeat, on two machines of its own, makes one node Primary, the other one when the first is dead, and back on
// request. When it can't hear the other machine any more, which goes on, it asks for a second Primary, and is refused.
func TestHeartbeat(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := start(t, "manual")
	h := s.heartbeats("a duet::r0")
	a, b := s.Node("a"), s.Node("b")
	h.begin(a)
	h.begin(b)
	s.waitRole(a, "Primary")
	r := s.ledger()
	write := func(n *cluster.Node) { r.write(n, 300) }
	write(a)

	s.kill(a)
	h.crash(a)
	s.waitRole(b, "Primary")
	r.verify(b)
	write(b)

	s.restart(a)
	h.begin(a)
	s.inSync()
	s.waitLog(h, a, "Initial resource acquisition complete (T_RESOURCES(them))", 1)
	h.mustEnter(b, "/usr/share/heartbeat/hb_standby", "all")
	s.waitRole(a, "Primary")
	s.waitRole(b, "Secondary")
	r.verify(a)

	run(t, "ip", "-n", h.namespace(b), "link", "set", "link0", "down")
	s.waitLog(h, b, "ERROR: Return code 1 from /etc/ha.d//resource.d/duet", 1)
	r.write(a, 300)
	s.waitRole(b, "Secondary")
	s.waitRole(a, "Primary")
	s.inSync()
	r.verify(a)
}

// waitLog waits until a node's Heartbeat has said something so often.
func (s *scenario) waitLog(h *heartbeats, n *cluster.Node, words string, times int) {
	s.t.Helper()
	s.within(func(ctx context.Context) error {
		return cluster.WaitFor(ctx, "Heartbeat on "+n.Name+" to say "+words, func() error {
			if said := strings.Count(h.log(n), words); said < times {
				return fmt.Errorf("it has said so %d times", said)
			}
			return nil
		})
	})
}
