package managers

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"duet/nbd/nbdclient"
	"duet/tests/cluster"
)

// settleTimeout bounds how long anything may take that is waited for; only what hangs meets it.
const settleTimeout = 60 * time.Second

// program is the duet that all tests share: built when first asked for, below a directory that goes with the last of them.
type program struct {
	sync.Mutex
	dir, path string
}

var shared = &program{}

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	// Short, because the paths of the nodes' sockets are limited; open, because ocf-tester looks at the agent as nobody.
	dir, err := os.MkdirTemp("", "duet-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared.dir = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// duetPath is the path of the program.
func duetPath(t *testing.T) string {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.path == "" {
		path, err := cluster.Build(t.Context(), shared.dir, cluster.BuildOptions{Race: os.Getenv("DUET_TEST_RACE") == "1"})
		if err != nil {
			t.Fatal(err)
		}
		shared.path = path
	}
	return shared.path
}

// scenario is a cluster of two data nodes and a witness, and the test that uses it.
type scenario struct {
	*cluster.Cluster
	t   *testing.T
	dir string
}

// start starts a cluster with a resource without a Primary, of that promotion policy.
func start(t *testing.T, promotion string) *scenario {
	t.Helper()
	c, dir, err := startNodes(t)
	for tries := 1; err != nil && tries < 3 && strings.Contains(err.Error(), "address already in use"); tries++ {
		c, dir, err = startNodes(t) // somebody took a port between its choice and its use
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &scenario{Cluster: c, t: t, dir: dir}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Tails(25))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.CreateResource(t.Context(), "r0", "64MiB", "--promotion", promotion); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Node("a").MustSucceed(t.Context(), "secondary", "r0"); err != nil {
		t.Fatal(err)
	}
	return s
}

func startNodes(t *testing.T) (*cluster.Cluster, string, error) {
	t.Helper()
	binary := duetPath(t)
	dir, err := os.MkdirTemp(shared.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(t.Context(), cluster.Config{Binary: binary, Dir: dir, DataNodes: 2, Witness: true})
	return c, dir, err
}

// within runs something that takes a context with the usual time limit.
func (s *scenario) within(work func(ctx context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), settleTimeout)
	defer cancel()
	if err := work(ctx); err != nil {
		s.t.Fatal(err)
	}
}

// until waits for a condition on r0 as one node sees it.
func (s *scenario) until(n *cluster.Node, what string, missing func(*cluster.Resource) error) *cluster.Resource {
	s.t.Helper()
	var last *cluster.Resource
	s.within(func(ctx context.Context) error {
		return cluster.WaitFor(ctx, what, func() error {
			r, err := n.Resource(ctx, "r0")
			if err != nil {
				return err
			}
			last = r
			return missing(r)
		})
	})
	return last
}

// now is r0 as a node sees it.
func (s *scenario) now(n *cluster.Node) *cluster.Resource {
	s.t.Helper()
	return s.until(n, "an answer", func(*cluster.Resource) error { return nil })
}

// inSync waits until r0 is in sync everywhere.
func (s *scenario) inSync() {
	s.t.Helper()
	s.within(func(ctx context.Context) error { return s.WaitInSync(ctx, "r0") })
}

func (s *scenario) kill(n *cluster.Node) {
	s.t.Helper()
	if err := n.Kill(); err != nil {
		s.t.Fatal(err)
	}
}

// restart starts a daemon again and waits until it answers.
func (s *scenario) restart(n *cluster.Node) {
	s.t.Helper()
	s.within(n.Start)
}

// needs ends the test unless the tools are there: skipped on a developer's machine, failed in CI.
func needs(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool+" is not installed (.ci/packages names its package)")
		}
	}
}

// missing ends the test for want of something on this machine.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// run runs a program of others to its end, which must be good.
func run(t *testing.T, argv ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	if output, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, output)
	}
}

const (
	blockBytes  = 4096
	deviceBytes = 64 << 20
)

// ledger is what was acknowledged: the number that each block of r0 holds.
type ledger struct {
	s      *scenario
	blocks map[uint64]uint64
	last   uint64
}

func (s *scenario) ledger() *ledger { return &ledger{s: s, blocks: make(map[uint64]uint64)} }

// client connects to r0 on a node. It ends with the test at the latest.
func (s *scenario) client(n *cluster.Node) *nbdclient.Client {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), settleTimeout)
	defer cancel()
	client, err := nbdclient.Dial(ctx, "tcp", n.NBD, nbdclient.Config{Export: "r0"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := client.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return client
}

func blockOf(number uint64) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, number), blockBytes/8)
}

// write writes so many blocks on a node, here and there, all of which must be acknowledged.
func (l *ledger) write(n *cluster.Node, count int) {
	l.s.t.Helper()
	client := l.s.client(n)
	l.s.within(func(ctx context.Context) error {
		for range count {
			l.last++
			block := l.last * 7919 % (deviceBytes / blockBytes)
			if err := client.Write(ctx, blockOf(l.last), block*blockBytes); err != nil {
				return fmt.Errorf("write on %s: %w", n.Name, err)
			}
			l.blocks[block] = l.last
		}
		return nil
	})
}

// verify reads on a node what was acknowledged.
func (l *ledger) verify(n *cluster.Node) {
	l.s.t.Helper()
	client := l.s.client(n)
	l.s.within(func(ctx context.Context) error {
		got := make([]byte, blockBytes)
		for block, number := range l.blocks {
			if err := client.Read(ctx, got, block*blockBytes); err != nil {
				return fmt.Errorf("read on %s: %w", n.Name, err)
			}
			if !bytes.Equal(got, blockOf(number)) {
				return fmt.Errorf("%s has lost the acknowledged write %d of block %d", n.Name, number, block)
			}
		}
		return nil
	})
}
