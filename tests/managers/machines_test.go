package managers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"duet/tests/cluster"
)

// machines is one machine for each data node, for a manager alone: namespaces with their own network, name, processes, /etc
// and /run, joined by one link. The daemons of duet are elsewhere, and reached by the sockets in their directories. Managers reboot a machine
// that they don't trust any more; in a namespace of processes that ends the namespace.
type machines struct {
	s         *scenario
	kind      string
	processes map[string]*cluster.Process
}

func (s *scenario) machines(kind string) *machines {
	s.t.Helper()
	needs(s.t, "ip", "unshare", "nsenter")
	if os.Getuid() != 0 {
		missing(s.t, "network namespaces need root")
	}
	m := &machines{s: s, kind: kind, processes: make(map[string]*cluster.Process)}
	for _, n := range s.DataNodes() {
		m.network(n)
		run(s.t, "mkdir", "-p", filepath.Join(m.root(n), "etc"))
		run(s.t, "cp", "-a", "/etc/.", filepath.Join(m.root(n), "etc"))
	}
	run(s.t, "ip", "link", "add", "link0", "netns", m.namespace(s.Node("a")), "type", "veth", "peer", "name", "link0", "netns", m.namespace(s.Node("b")))
	for i, n := range s.DataNodes() {
		run(s.t, "ip", "-n", m.namespace(n), "addr", "add", fmt.Sprintf("10.99.0.%d/24", i+1), "dev", "link0")
		run(s.t, "ip", "-n", m.namespace(n), "link", "set", "link0", "up")
	}
	return m
}

func (m *machines) namespace(n *cluster.Node) string {
	return fmt.Sprintf("duet-%s-%d-%s", m.kind, os.Getpid(), n.Name)
}

func (m *machines) network(n *cluster.Node) {
	name := m.namespace(n)
	run(m.s.t, "ip", "netns", "add", name)
	m.s.t.Cleanup(func() {
		if output, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			m.s.t.Errorf("ip netns del: %v\n%s", err, output)
		}
	})
	run(m.s.t, "ip", "-n", name, "link", "set", "lo", "up")
}

// root is where what a machine has for itself is.
func (m *machines) root(n *cluster.Node) string { return filepath.Join(m.s.dir, m.kind+"-"+n.Name) }

// logPath is the file that the manager is told to log to.
func (m *machines) logPath(n *cluster.Node) string { return filepath.Join(m.root(n), "manager.log") }

func (m *machines) log(n *cluster.Node) string {
	text, err := os.ReadFile(m.logPath(n))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// write makes a file in the machine's /etc.
func (m *machines) write(n *cluster.Node, name, text string) {
	m.s.t.Helper()
	if err := os.WriteFile(filepath.Join(m.root(n), "etc", name), []byte(text), 0o600); err != nil {
		m.s.t.Fatal(err)
	}
}

// boot starts a machine, which lives as long as the script does. In it $1 is the node's name, $2 the machine's root, $3 the node's directory.
func (m *machines) boot(n *cluster.Node, script string) {
	m.s.t.Helper()
	script = `set -e
hostname "$1"
mount --bind "$2/etc" /etc
mount -t tmpfs none /run
` + script
	process, err := cluster.StartProcess(m.kind+"-"+n.Name, filepath.Join(m.root(n), "out.log"), "ip", "netns", "exec", m.namespace(n),
		"unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh", n.Name, m.root(n), n.Dir)
	if err != nil {
		m.s.t.Fatal(err)
	}
	m.processes[n.Name] = process
	m.s.t.Cleanup(func() {
		if err := process.Kill(); err != nil {
			m.s.t.Error(err)
		}
		if m.s.t.Failed() {
			log := m.log(n)
			m.s.t.Logf("--- the manager on %s\n%s\n%s", n.Name, process.Tail(10), log[max(0, len(log)-8000):])
		}
	})
}

// crash ends a machine without warning.
func (m *machines) crash(n *cluster.Node) {
	m.s.t.Helper()
	if err := m.processes[n.Name].Kill(); err != nil {
		m.s.t.Fatal(err)
	}
}

// enter runs a command on a machine and returns what it printed.
func (m *machines) enter(ctx context.Context, n *cluster.Node, argv ...string) (string, error) {
	pid := strconv.Itoa(m.processes[n.Name].PID())
	child, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	if err != nil || len(child) == 0 {
		return "", errors.Join(errors.New("the machine is not up"), err)
	}
	output, err := exec.CommandContext(ctx, "nsenter", append([]string{"-a", "-t", strings.TrimSpace(string(child))}, argv...)...).CombinedOutput()
	return string(output), err
}

// mustEnter is enter for what must succeed.
func (m *machines) mustEnter(n *cluster.Node, argv ...string) {
	m.s.t.Helper()
	m.s.within(func(ctx context.Context) error {
		output, err := m.enter(ctx, n, argv...)
		if err != nil {
			return fmt.Errorf("%v on %s: %w\n%s", argv, n.Name, err, output)
		}
		return nil
	})
}
