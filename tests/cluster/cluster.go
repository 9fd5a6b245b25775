package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// readyTimeout is far above what a start or a first sync takes, so that only what hangs meets it.
const readyTimeout = 30 * time.Second

// Config says what cluster is wanted.
type Config struct {
	Binary    string // the program, from Build
	Dir       string // everything the cluster keeps is below this directory
	DataNodes int    // named a, b, c, ...
	Witness   bool   // a further node, named witness, without data
	Insecure  bool   // links in plaintext instead of TLS
	Host      string // the address the nodes listen on; 127.0.0.1 when empty
	// Settings are lines that are added to every node's node.yaml before its first run, such as time-outs.
	Settings []string
	// Command stands before every run of the program, such as `ip netns exec NAME`.
	Command []string
	// Hosts says which machine a node has, where each has its own; nil when all share Host.
	Hosts func(node string) Host
	// RunArguments are extra arguments of `duet run`.
	RunArguments []string
	// Place says where a node's directory and disks are, which is Dir when it is nil. Logs stay in Dir.
	Place func(node string) string
	// Environment is added to that of every run of the program.
	Environment []string
}

// Host is the machine of one node, or what passes for it.
type Host struct {
	Address string   // its ports are the defaults
	Command []string // stands before every run of the program, behind Config.Command
}

func (c *Config) validate() error {
	switch {
	case c.Binary == "" || c.Dir == "":
		return errors.New("cluster: the program and the directory are required")
	case c.DataNodes < 1 || c.DataNodes > 8:
		return fmt.Errorf("cluster: %d data nodes: 1 to 8 are possible", c.DataNodes)
	}
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	return nil
}

// Cluster is a set of nodes that know each other.
type Cluster struct {
	Nodes  []*Node // data nodes first
	config Config
}

// Start makes a cluster and starts all its nodes, one after the other as an operator would. After an error nothing
// runs any more.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	c := &Cluster{config: config}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close(), errors.New(c.Tails(15)))
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for i := range c.config.DataNodes {
		if _, err := c.Add(ctx, string(rune('a'+i)), false); err != nil {
			return err
		}
	}
	if c.config.Witness {
		if _, err := c.Add(ctx, "witness", true); err != nil {
			return err
		}
	}
	return nil
}

// Add makes one more node and starts it. The first one founds the cluster, every other joins it.
func (c *Cluster) Add(ctx context.Context, name string, witness bool) (*Node, error) {
	n, err := c.newNode(name, witness)
	if err != nil {
		return nil, err
	}
	if err := c.prepare(ctx, n); err != nil {
		return nil, err
	}
	c.Nodes = append(c.Nodes, n)
	return n, n.Start(ctx)
}

func (c *Cluster) newNode(name string, witness bool) (*Node, error) {
	n := &Node{
		Name: name, Dir: filepath.Join(c.place(name), name), Witness: witness,
		Environment: slices.Clone(c.config.Environment), logPath: filepath.Join(c.config.Dir, name+".log"),
		argv: append(slices.Clone(c.config.Command), c.config.Binary), arguments: c.config.RunArguments,
	}
	addresses, err := c.addresses(n)
	if err != nil {
		return nil, err
	}
	n.Address = addresses[0]
	if !witness {
		n.NBD = addresses[1]
	}
	return n, nil
}

// addresses are where a node listens for other nodes and for NBD clients.
func (c *Cluster) addresses(n *Node) ([]string, error) {
	if c.config.Hosts == nil {
		return FreeAddresses(c.config.Host, 2)
	}
	host := c.config.Hosts(n.Name)
	n.argv = slices.Concat(c.config.Command, host.Command, []string{c.config.Binary})
	return []string{net.JoinHostPort(host.Address, "7600"), net.JoinHostPort(host.Address, "10809")}, nil
}

// Stranger makes a node that is no member: it has a directory to be and addresses, for trying what must be refused.
func (c *Cluster) Stranger(name string) (*Node, error) { return c.newNode(name, true) }

// prepare writes the node's directory: `duet init` for the first node, `duet join` for the others.
func (c *Cluster) prepare(ctx context.Context, n *Node) error {
	arguments := []string{"init"}
	if len(c.Nodes) > 0 {
		arguments = []string{"join"}
	}
	arguments = append(arguments, "--name", n.Name, "--listen", n.Address, "--advertise", n.Address)
	if n.NBD != "" {
		arguments = append(arguments, "--nbd", n.NBD)
	}
	if c.config.Insecure {
		arguments = append(arguments, "--insecure")
	}
	if n.Witness {
		arguments = append(arguments, "--witness")
	}
	if len(c.Nodes) > 0 {
		token, err := c.Nodes[0].MustSucceed(ctx, "token")
		if err != nil {
			return err
		}
		arguments = append(arguments, strings.TrimSpace(token))
	}
	if _, err := n.MustSucceed(ctx, arguments...); err != nil {
		return err
	}
	return c.addSettings(n)
}

func (c *Cluster) addSettings(n *Node) error {
	if len(c.config.Settings) == 0 {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(n.Dir, "node.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("\n" + strings.Join(c.config.Settings, "\n") + "\n")
	return errors.Join(err, f.Sync(), f.Close()) // a scenario may take the power
}

// Node returns the node of that name. A wrong name is a mistake of the test, so it panics.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	panic("cluster: no node " + name)
}

// DataNodes are the nodes that are no witness.
func (c *Cluster) DataNodes() []*Node { return c.Nodes[:c.config.DataNodes] }

// place is the directory that a node's directory and disks are in.
func (c *Cluster) place(node string) string {
	if c.config.Place == nil {
		return c.config.Dir
	}
	return c.config.Place(node)
}

// Disk is the path where the disk of a resource on a node is by default.
func (c *Cluster) Disk(node, resource string) string {
	return filepath.Join(c.place(node), node+"-"+resource+".img")
}

// CreateResource creates a resource on all data nodes, the first of them Primary, and waits until all replicas are in
// sync. Further arguments go to `duet resource create`. Unless they say otherwise, nobody is promoted without being asked for.
func (c *Cluster) CreateResource(ctx context.Context, name, size string, arguments ...string) error {
	if !slices.Contains(arguments, "--promotion") {
		arguments = append([]string{"--promotion", "manual"}, arguments...)
	}
	arguments = append([]string{"resource", "create", name, "--size", size}, arguments...)
	for _, n := range c.DataNodes() {
		arguments = append(arguments, "--on", n.Name+"="+c.Disk(n.Name, name))
	}
	if _, err := c.Nodes[0].MustSucceed(ctx, arguments...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return c.WaitInSync(ctx, name)
}

// WaitInSync waits until every data node that runs says that all of them are in the in-sync set, that its own disk and
// those of its peers are UpToDate, and that nothing is out of sync.
func (c *Cluster) WaitInSync(ctx context.Context, resource string) error {
	return WaitFor(ctx, resource+" to be in sync everywhere", func() error {
		for _, n := range c.DataNodes() {
			r, err := n.Resource(ctx, resource)
			if err != nil {
				return err
			}
			if err := r.inSync(c.config.DataNodes); err != nil {
				return fmt.Errorf("on %s: %w", n.Name, err)
			}
		}
		return nil
	})
}

// inSync says what is missing until the resource is in sync on this many nodes.
func (r *Resource) inSync(nodes int) error {
	switch {
	case len(r.InSync) != nodes:
		return fmt.Errorf("%s: in sync are %v: %s", r.Name, r.InSync, r.Reason)
	case r.DiskState() != "UpToDate":
		return fmt.Errorf("%s: the disk is %s: %s", r.Name, r.DiskState(), r.Reason)
	case r.OutOfSyncKiB() != 0:
		return fmt.Errorf("%s: %d KiB are out of sync", r.Name, r.OutOfSyncKiB())
	}
	for _, connection := range r.Connections {
		for _, device := range connection.PeerDevices {
			if device.PeerDiskState != "UpToDate" {
				return fmt.Errorf("%s: the disk of %s is %s", r.Name, connection.Name, device.PeerDiskState)
			}
		}
	}
	return nil
}

// Stop ends all nodes in good order: data nodes first, so that a Primary among them can give its role up while there is
// still a majority to agree, and the witness last.
func (c *Cluster) Stop(ctx context.Context) error {
	var failures []error
	for _, n := range c.Nodes {
		failures = append(failures, n.Stop(ctx))
	}
	return errors.Join(failures...)
}

// StopAtOnce tells all nodes to end in good order at the same time, as when everything is switched off.
func (c *Cluster) StopAtOnce(ctx context.Context) error {
	failures := make([]error, len(c.Nodes))
	var stops sync.WaitGroup
	for i, n := range c.Nodes {
		stops.Go(func() { failures[i] = n.Stop(ctx) })
	}
	stops.Wait()
	return errors.Join(failures...)
}

// Close kills whatever still runs, the supervisors too. It may be called more than once.
func (c *Cluster) Close() error {
	var failures []error
	for _, n := range c.Nodes {
		failures = append(failures, n.Kill(), n.KillSupervisor())
	}
	return errors.Join(failures...)
}

// Tails is the end of every node's log.
func (c *Cluster) Tails(lines int) string {
	var b strings.Builder
	for _, n := range c.Nodes {
		fmt.Fprintf(&b, "--- log of %s\n%s\n", n.Name, tail(n.LogPath(), lines))
	}
	return b.String()
}

// Ports are taken from below the range the kernel uses for outgoing connections (32768 and up), where any client could
// take one between its choice and the start of its daemon.
const (
	firstPort = 20000
	lastPort  = 32000
)

// FreeAddresses finds addresses on which nobody listens at the moment. All are held until the last is found, so they
// differ. They are chosen at random, so that tests running at the same time are unlikely to meet.
func FreeAddresses(host string, count int) (addresses []string, err error) {
	for attempts := 0; len(addresses) < count; attempts++ {
		if attempts > 100*count {
			return nil, fmt.Errorf("cluster: no free port on %s", host)
		}
		port := strconv.Itoa(firstPort + rand.IntN(lastPort-firstPort))
		listener, listenErr := net.Listen("tcp", net.JoinHostPort(host, port))
		if listenErr != nil {
			continue
		}
		defer func() { err = errors.Join(err, listener.Close()) }()
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}
