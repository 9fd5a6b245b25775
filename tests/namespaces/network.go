package namespaces

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// prefix begins the name of every namespace: prefix, process, number of the network, host.
const prefix = "duet-test-"

// switchName is the host that has the bridge; no other may be called so.
const switchName = "switch"

// networks counts those of this process, so that each has names of its own.
var networks atomic.Int64

// Cut says that what one host sends to another does not arrive.
type Cut struct{ From, To string }

// Both is a cut in both directions.
func Both(a, b string) []Cut { return []Cut{{a, b}, {b, a}} }

// Network is a set of hosts on one switch.
type Network struct {
	number int64
	hosts  []string

	mu   sync.Mutex
	cuts []Cut
}

// Available says what is missing on this machine, nil for nothing.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed (.ci/packages names its package)", tool)
		}
	}
	return nil
}

// New makes a network. After an error nothing of it is left.
func New(ctx context.Context, hosts ...string) (*Network, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	n := &Network{number: networks.Add(1), hosts: hosts}
	if err := n.build(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Network) build(ctx context.Context) error {
	bridge := n.namespace(switchName)
	steps := [][]string{
		{"netns", "add", bridge},
		{"-n", bridge, "link", "add", "br0", "type", "bridge"},
		{"-n", bridge, "link", "set", "br0", "up"},
	}
	for i, host := range n.hosts {
		space, port := n.namespace(host), n.port(host)
		steps = append(steps,
			[]string{"netns", "add", space},
			[]string{"link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", port, "netns", bridge},
			[]string{"-n", bridge, "link", "set", port, "master", "br0"},
			[]string{"-n", bridge, "link", "set", port, "up"},
			[]string{"-n", space, "link", "set", "lo", "up"},
			[]string{"-n", space, "addr", "add", address(i) + "/24", "dev", "eth0"},
			[]string{"-n", space, "link", "set", "eth0", "up"})
	}
	for _, step := range steps {
		if output, err := exec.CommandContext(ctx, "ip", step...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(step, " "), err, output)
		}
	}
	return n.apply(ctx, nil)
}

func (n *Network) namespace(host string) string {
	return fmt.Sprintf("%s%d-%d-%s", prefix, os.Getpid(), n.number, host)
}

// port is the switch's end of the link to a host. A wrong name is a mistake of the test, so it panics.
func (n *Network) port(host string) string { return fmt.Sprintf("p%d", n.index(host)) }

func (n *Network) index(host string) int {
	i := slices.Index(n.hosts, host)
	if i < 0 {
		panic("namespaces: no host " + host)
	}
	return i
}

func address(index int) string { return fmt.Sprintf("10.77.0.%d", index+1) }

// Address is the IP address of a host.
func (n *Network) Address(host string) string { return address(n.index(host)) }

// Command is what stands before a command that is to run on a host. The command replaces it: the process is the same.
func (n *Network) Command(host string) []string {
	n.index(host)
	return []string{"ip", "netns", "exec", n.namespace(host)}
}

// Cut adds cuts to those that there are.
func (n *Network) Cut(ctx context.Context, cuts ...Cut) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.apply(ctx, slices.Concat(n.cuts, cuts))
}

// Heal takes all cuts back.
func (n *Network) Heal(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.apply(ctx, nil)
}

// apply replaces all cuts in one transaction; n.mu is held, or nobody knows n yet.
func (n *Network) apply(ctx context.Context, cuts []Cut) error {
	var rules strings.Builder
	// The first line makes sure that there is something to delete.
	rules.WriteString("table bridge duet\ndelete table bridge duet\ntable bridge duet {\nchain cuts {\ntype filter hook forward priority 0;\n")
	for _, cut := range cuts {
		fmt.Fprintf(&rules, "iifname %q oifname %q drop\n", n.port(cut.From), n.port(cut.To))
	}
	rules.WriteString("}\n}\n")
	command := exec.CommandContext(ctx, "ip", "netns", "exec", n.namespace(switchName), "nft", "-f", "-")
	command.Stdin = strings.NewReader(rules.String())
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s\n%s", err, output, rules.String())
	}
	n.cuts = cuts
	return nil
}

// Close kills what still runs in the namespaces and removes them. What has been removed already is no error.
func (n *Network) Close() error {
	var failures []error
	for _, host := range append([]string{switchName}, n.hosts...) {
		failures = append(failures, remove(n.namespace(host)))
	}
	return errors.Join(failures...)
}

// remove kills every process in a namespace and deletes it.
func remove(namespace string) error {
	if _, err := os.Stat("/run/netns/" + namespace); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := killAll(namespace); err != nil {
		return err
	}
	if output, err := exec.Command("ip", "netns", "del", namespace).CombinedOutput(); err != nil {
		return fmt.Errorf("ip netns del %s: %w: %s", namespace, err, output)
	}
	return nil
}

func killAll(namespace string) error {
	output, err := exec.Command("ip", "netns", "pids", namespace).Output()
	if err != nil {
		return fmt.Errorf("ip netns pids %s: %w", namespace, err)
	}
	for _, field := range strings.Fields(string(output)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return fmt.Errorf("ip netns pids %s: %w", namespace, err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill %d in %s: %w", pid, namespace, err)
		}
	}
	return nil
}

// Sweep removes the namespaces, and what runs in them, of processes that are gone without having done so.
func Sweep() error {
	entries, err := os.ReadDir("/run/netns")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	failures := []error{err}
	for _, entry := range entries {
		if pid, ours := maker(entry.Name()); ours && !alive(pid) {
			failures = append(failures, remove(entry.Name()))
		}
	}
	return errors.Join(failures...)
}

// maker is the process in the name of a namespace.
func maker(namespace string) (pid int, ours bool) {
	rest, ours := strings.CutPrefix(namespace, prefix)
	if !ours {
		return 0, false
	}
	number, _, _ := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(number)
	return pid, err == nil && pid > 0
}

// alive is whether there is such a process, or it can't be told.
func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }
