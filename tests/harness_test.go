package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"duet/tests/cluster"
)

// Time limits of the scenarios. They bound what hangs; what is measured is printed, not asserted this way.
const (
	// settleTimeout bounds how long the cluster may take to notice a fault and act on it.
	settleTimeout = 30 * time.Second
	// resyncTimeout bounds a resync of what a scenario wrote.
	resyncTimeout = 60 * time.Second
)

// programs are the builds of duet that the tests of this run share, by build tags.
type programs struct {
	sync.Mutex
	dir   string
	built map[string]string
}

// shared is set up by TestMain: the only state that tests have in common.
var shared = &programs{built: make(map[string]string)}

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "duet-test-")
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

// program returns the path of duet, built with the given tags. It is built when first asked for.
func program(t *testing.T, tags string) string {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if path, ok := shared.built[tags]; ok {
		return path
	}
	dir := filepath.Join(shared.dir, "duet-"+strings.ReplaceAll(tags, ",", "-"))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	options := cluster.BuildOptions{Race: os.Getenv("DUET_TEST_RACE") == "1", Tags: tags}
	path, err := cluster.Build(t.Context(), dir, options)
	if err != nil {
		t.Fatal(err)
	}
	shared.built[tags] = path
	return path
}

// scenario is a cluster and the test that uses it. Its methods end the test when something fails.
type scenario struct {
	*cluster.Cluster
	t   *testing.T
	dir string
}

// options change the usual cluster: two data nodes and a witness, with TLS.
type options func(*cluster.Config)

func dataNodes(count int) options { return func(c *cluster.Config) { c.DataNodes = count } }

// plaintext links are for the scenarios that need to speak to a daemon by hand.
func plaintext(c *cluster.Config) { c.Insecure = true }

// start starts a cluster that ends with the test. When the test fails the ends of the logs are printed.
func start(t *testing.T, changes ...options) *scenario {
	t.Helper()
	binary := program(t, "")
	// Not t.TempDir: the name of the test in it would make the paths of the nodes' sockets longer than a socket's may be.
	dir, err := os.MkdirTemp(shared.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	config := cluster.Config{Binary: binary, Dir: dir, DataNodes: 2, Witness: true,
		Settings: []string{"suspect: 2s"}} // a busy machine must not change what a scenario is about
	for _, change := range changes {
		change(&config)
	}
	c, err := cluster.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	s := &scenario{Cluster: c, t: t, dir: config.Dir}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Tails(25))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// create makes a resource on all data nodes, in sync.
func (s *scenario) create(name, size string, arguments ...string) {
	s.t.Helper()
	if err := s.CreateResource(s.t.Context(), name, size, arguments...); err != nil {
		s.t.Fatal(err)
	}
}

// within runs something that takes a context with a time limit of its own.
func (s *scenario) within(timeout time.Duration, work func(ctx context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), timeout)
	defer cancel()
	if err := work(ctx); err != nil {
		s.t.Fatal(err)
	}
}

// until waits for a condition on a resource as one node sees it.
func (s *scenario) until(n *cluster.Node, resource, what string, missing func(*cluster.Resource) error) *cluster.Resource {
	s.t.Helper()
	var last *cluster.Resource
	s.within(settleTimeout, func(ctx context.Context) error {
		return cluster.WaitFor(ctx, what, func() error {
			r, err := n.Resource(ctx, resource)
			if err != nil {
				return err
			}
			last = r
			return missing(r)
		})
	})
	return last
}

// inSync waits until the resource is in sync everywhere.
func (s *scenario) inSync(resource string) {
	s.t.Helper()
	s.within(resyncTimeout, func(ctx context.Context) error { return s.WaitInSync(ctx, resource) })
}

// inSyncAre waits until the node says that exactly these are in the in-sync set of r0.
func (s *scenario) inSyncAre(n *cluster.Node, want ...string) {
	s.t.Helper()
	s.until(n, "r0", fmt.Sprintf("the in-sync set %v", want), func(r *cluster.Resource) error {
		if fmt.Sprint(r.InSync) != fmt.Sprint(want) {
			return fmt.Errorf("in sync are %v", r.InSync)
		}
		return nil
	})
}

// duet runs a command that must succeed.
func (s *scenario) duet(n *cluster.Node, arguments ...string) string {
	s.t.Helper()
	output, err := n.MustSucceed(s.t.Context(), arguments...)
	if err != nil {
		s.t.Fatal(err)
	}
	return output
}

// promote makes the node Primary. It asks again while the cluster has not yet noticed that the old Primary is gone.
func (s *scenario) promote(n *cluster.Node, resource string) {
	s.t.Helper()
	s.within(settleTimeout, func(ctx context.Context) error {
		return cluster.WaitFor(ctx, n.Name+" to become Primary", func() error {
			r, err := n.Resource(ctx, resource)
			if err != nil {
				return err
			}
			if r.Role == "Primary" {
				return nil
			}
			_, err = n.MustSucceed(ctx, "primary", resource)
			return err
		})
	})
}

func (s *scenario) kill(n *cluster.Node) {
	s.t.Helper()
	if err := n.Kill(); err != nil {
		s.t.Fatal(err)
	}
}

// stop ends a daemon in good order.
func (s *scenario) stop(n *cluster.Node) {
	s.t.Helper()
	s.within(settleTimeout, n.Stop)
}

// restart starts a daemon again and waits until it answers.
func (s *scenario) restart(n *cluster.Node) {
	s.t.Helper()
	s.within(settleTimeout, n.Start)
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

// run runs a program of others to its end, which must be good, and returns what it printed.
func run(t *testing.T, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), resyncTimeout)
	defer cancel()
	output, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, output)
	}
	return string(output)
}
