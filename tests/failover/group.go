package failover

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"duet/internal/config"
	"duet/internal/control"
	"duet/nbd/nbdclient"
	"duet/tests/cluster"
	"duet/tests/namespaces"
)

const (
	resource   = "r0"
	usedBlocks = 512
	deviceSize = "256MiB"
	clientHost = "client"
	// settleTimeout bounds how long the cluster may take to be well again when nothing hinders it any more.
	settleTimeout = 60 * time.Second
	// askTimeout bounds a question to a daemon, which may be frozen.
	askTimeout = time.Second
)

// Config says what cluster to play with.
type Config struct {
	Binary    string
	Dir       string // everything is kept below it
	DataNodes int
	Witnesses int
	Manual    bool     // an operator, and not the cluster, replaces a lost Primary
	Arguments []string // of `duet run`
	// Environment is added to that of every daemon.
	Environment []string
}

// group is a cluster on a network of its own, with one resource.
type group struct {
	*cluster.Cluster
	network   *namespaces.Network
	manual    bool
	tls       *tls.Config
	asks      map[string]*control.Client
	processes map[string]*atomic.Int64 // how often each daemon was started

	mu    sync.Mutex
	notes []control.GenerationNote // of the record so far
}

// assemble starts a cluster with its resource in sync. After an error nothing is left of it.
func assemble(ctx context.Context, c Config) (*group, error) {
	hosts := []string{clientHost}
	for i := range c.DataNodes {
		hosts = append(hosts, string(rune('a'+i)))
	}
	for i := range c.Witnesses {
		hosts = append(hosts, witnessName(i))
	}
	network, err := namespaces.New(ctx, hosts...)
	if err != nil {
		return nil, err
	}
	g := &group{network: network, manual: c.Manual, asks: map[string]*control.Client{}, processes: map[string]*atomic.Int64{}}
	if err := g.start(ctx, c); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

func witnessName(i int) string { return []string{"witness", "witness2"}[i] }

func (g *group) start(ctx context.Context, c Config) (err error) {
	g.Cluster, err = cluster.Start(ctx, cluster.Config{
		Binary: c.Binary, Dir: c.Dir, DataNodes: c.DataNodes, RunArguments: c.Arguments, Environment: c.Environment,
		Hosts: func(node string) cluster.Host {
			return cluster.Host{Address: g.network.Address(node), Command: g.network.Command(node)}
		},
	})
	if err != nil {
		return err
	}
	for i := range c.Witnesses {
		if _, err := g.Add(ctx, witnessName(i), true); err != nil {
			return err
		}
	}
	for _, n := range g.Nodes {
		g.asks[n.Name] = control.NewLocalClient(n.Dir, config.Dir(n.Dir).ControlSocket())
		g.processes[n.Name] = new(atomic.Int64)
	}
	if err := g.loadCredentials(ctx, filepath.Join(c.Dir, "client")); err != nil {
		return err
	}
	promotion := control.PromotionAuto
	if c.Manual {
		promotion = control.PromotionManual
	}
	return g.CreateResource(ctx, resource, deviceSize, "--promotion", string(promotion))
}

// loadCredentials makes those of an NBD client.
func (g *group) loadCredentials(ctx context.Context, dir string) error {
	if _, err := g.Nodes[0].MustSucceed(ctx, "token", "--client", "load", "--out", dir); err != nil {
		return err
	}
	certificate, err := tls.LoadX509KeyPair(filepath.Join(dir, "client-cert.pem"), filepath.Join(dir, "client-key.pem"))
	if err != nil {
		return err
	}
	authority, err := os.ReadFile(filepath.Join(dir, "ca-cert.pem"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return errors.New("the cluster's authority is no certificate")
	}
	// Every node's certificate is good for localhost, too.
	g.tls = &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}
	return nil
}

// close ends everything and leaves nothing behind but the directory.
func (g *group) close() error {
	var failures []error
	for _, ask := range g.asks {
		ask.Close()
	}
	if g.Cluster != nil {
		failures = append(failures, g.Close())
	}
	return errors.Join(append(failures, g.network.Close())...)
}

func (g *group) dataNodes() (names []string) {
	for _, n := range g.DataNodes() {
		names = append(names, n.Name)
	}
	return names
}

func (g *group) names() (names []string) {
	for _, n := range g.Nodes {
		names = append(names, n.Name)
	}
	return names
}

func (g *group) config() nbdclient.Config {
	return nbdclient.Config{Export: resource, TLS: g.tls, HandshakeTimeout: connectTimeout}
}

// dial connects from the client's host with a node's NBD server.
func (g *group) dial(ctx context.Context, node string) (net.Conn, server, error) {
	process := g.processes[node].Load()
	conn, err := g.network.Dial(ctx, clientHost, g.Node(node).NBD)
	if err != nil {
		return nil, server{}, err
	}
	if g.processes[node].Load() != process {
		return nil, server{}, errors.Join(errors.New("restarted meanwhile"), conn.Close())
	}
	return conn, server{node, int(process)}, nil
}

// run starts a daemon, without waiting for it.
func (g *group) run(node string) error {
	g.processes[node].Add(1)
	return g.Node(node).Run()
}

// status is what a node says of the resource, nil when it does not answer.
func (g *group) status(ctx context.Context, node string) *control.ResourceStatus {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if !g.Node(node).Running() {
		return nil
	}
	s, err := g.asks[node].Status(ctx)
	if err != nil {
		return nil
	}
	for i := range s.Resources {
		if s.Resources[i].Name == resource {
			return &s.Resources[i]
		}
	}
	return nil
}

// primary is who is Primary in the newest generation that any data node knows; empty when nobody is.
func (g *group) primary(ctx context.Context) string {
	primary, newest := "", uint64(0)
	for _, node := range g.dataNodes() {
		if s := g.status(ctx, node); s != nil && s.Generation >= newest {
			newest, primary = s.Generation, s.Primary
		}
	}
	return primary
}

// leader is Raft's, empty when nobody knows one.
func (g *group) leader(ctx context.Context) string {
	for _, node := range g.names() {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		s, err := g.asks[node].Status(ctx)
		cancel()
		if err == nil && s.Quorum.Leader != "" {
			return s.Quorum.Leader
		}
	}
	return ""
}

// insync says what is missing until all replicas are in sync and somebody is Primary.
func (g *group) insync(ctx context.Context) error {
	primary := false
	for _, node := range g.dataNodes() {
		s := g.status(ctx, node)
		switch {
		case s == nil:
			return fmt.Errorf("%s does not answer", node)
		case len(s.InSync) != len(g.dataNodes()):
			return fmt.Errorf("%s says that %v are in sync in generation %d, %q Primary: %s", node, s.InSync, s.Generation, s.Primary, s.Reason)
		case len(s.Devices) == 0 || s.Devices[0].DiskState != control.DiskUpToDate:
			return fmt.Errorf("the disk of %s is %v: %s", node, s.Devices, s.Reason)
		case s.Suspended:
			return fmt.Errorf("%s is suspended: %s", node, s.Reason)
		}
		primary = primary || s.Role == control.RolePrimary
	}
	if !primary {
		return errors.New("nobody is Primary")
	}
	return nil
}

// learn reads the cluster's record from whoever knows most of it, and adds what is new to what was read before.
func (g *group) learn(ctx context.Context) error {
	var newest *control.ResourceRecord
	var failures []error
	for _, node := range g.dataNodes() {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		r, err := g.asks[node].ResourceShow(ctx, resource)
		cancel()
		failures = append(failures, err)
		if err == nil && (newest == nil || r.Generation > newest.Generation) {
			newest = r
		}
	}
	if newest == nil {
		return errors.Join(failures...)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	known := uint64(0)
	if len(g.notes) > 0 {
		known = g.notes[len(g.notes)-1].Generation
	}
	for _, note := range newest.History {
		if note.Generation <= known {
			continue
		}
		if known != 0 && note.Generation != known+1 {
			return fmt.Errorf("the record's history lacks what is between generations %d and %d", known, note.Generation)
		}
		known = note.Generation
		g.notes = append(g.notes, note)
	}
	return nil
}

// tenures lists who was Primary, one after the other.
func (g *group) tenures() (found []tenure) {
	g.mu.Lock()
	defer g.mu.Unlock()
	last := ""
	for _, note := range g.notes {
		if note.Primary != "" && note.Primary != last {
			found = append(found, tenure{note.Primary, note.Generation})
			last = note.Primary
		}
	}
	return found
}

// since returns what the record says of generations after the given one.
func (g *group) since(generation uint64) []control.GenerationNote {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.notes, func(n control.GenerationNote) bool { return n.Generation > generation })
	if i < 0 {
		return nil
	}
	return slices.Clone(g.notes[i:])
}

// generation is the newest that was learnt.
func (g *group) generation() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.notes) == 0 {
		return 0
	}
	return g.notes[len(g.notes)-1].Generation
}

// describe renders the end of the record's history and every node's view, for a report.
func (g *group) describe(ctx context.Context) string {
	var b strings.Builder
	for _, note := range g.since(max(g.generation(), 12) - 12) {
		fmt.Fprintf(&b, "generation %d: %s, Primary %q, in sync %v: %s\n", note.Generation, note.Kind, note.Primary, note.InSync, note.Reason)
	}
	for _, node := range g.dataNodes() {
		if s := g.status(ctx, node); s != nil {
			fmt.Fprintf(&b, "%s: %s in generation %d, Primary %q, in sync %v, suspended %v: %s %s\n",
				node, s.Role, s.Generation, s.Primary, s.InSync, s.Suspended, s.Verdict, s.Reason)
		} else {
			fmt.Fprintf(&b, "%s: no answer\n", node)
		}
	}
	return b.String()
}

// sameBlocks compares the blocks that the load uses on all disks; whole compares the disks.
func (g *group) sameBlocks() error {
	return g.compare(func(a, b *os.File) error {
		p, q := make([]byte, blockBytes), make([]byte, blockBytes)
		for block := range int64(usedBlocks) {
			_, errA := a.ReadAt(p, block*strideBytes)
			_, errB := b.ReadAt(q, block*strideBytes)
			if err := errors.Join(errA, errB); err != nil {
				return err
			}
			if !bytes.Equal(p, q) {
				return fmt.Errorf("block %d is %s in %s and %s in %s", block, content(p, block), a.Name(), content(q, block), b.Name())
			}
		}
		return nil
	})
}

// content renders what a block holds.
func content(p []byte, block int64) string {
	number, err := readBlock(p, uint64(block))
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("write %d", number)
}

func (g *group) sameDisks() error {
	return g.compare(func(a, b *os.File) error {
		p, q := make([]byte, 1<<20), make([]byte, 1<<20)
		for offset := int64(0); ; offset += int64(len(p)) {
			n, errA := a.ReadAt(p, offset)
			m, errB := b.ReadAt(q, offset)
			if n != m || !bytes.Equal(p[:n], q[:m]) {
				return fmt.Errorf("%s and %s differ in the MiB at %d", a.Name(), b.Name(), offset)
			}
			if errors.Is(errA, io.EOF) && errors.Is(errB, io.EOF) {
				return nil
			}
			if err := errors.Join(errA, errB); err != nil {
				return err
			}
		}
	})
}

// compare compares the disk of the first data node with each other one.
func (g *group) compare(equal func(a, b *os.File) error) error {
	nodes := g.dataNodes()
	first, err := os.Open(g.Disk(nodes[0], resource))
	if err != nil {
		return err
	}
	failures := []error{}
	for _, node := range nodes[1:] {
		other, err := os.Open(g.Disk(node, resource))
		if err != nil {
			failures = append(failures, err)
			continue
		}
		failures = append(failures, equal(first, other), other.Close())
	}
	return errors.Join(append(failures, first.Close())...)
}
