package failover

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"duet/tests/cluster"
	"duet/tests/namespaces"
)

// setup builds the program and says where a cluster may be. It removes what killed runs have left.
func setup(t *testing.T, tags string) Config {
	t.Helper()
	if err := namespaces.Available(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if err := namespaces.Sweep(); err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: the name of the test in it would make the paths of the nodes' sockets longer than a socket's may be.
	dir, err := os.MkdirTemp(os.Getenv("DUET_FAILOVER_DIR"), "duet-failover-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("DUET_FAILOVER_DIR") != "" {
			t.Logf("logs and disks are in %s", dir)
		} else if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	binary, err := cluster.Build(t.Context(), dir, cluster.BuildOptions{Race: os.Getenv("DUET_TEST_RACE") == "1", Tags: tags})
	if err != nil {
		t.Fatal(err)
	}
	return Config{Binary: binary, Dir: dir, DataNodes: 2, Witnesses: 1, Manual: os.Getenv("DUET_FAILOVER_MANUAL") == "1"}
}

// number is the value of an environment variable, or what is usual.
func number(t *testing.T, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		t.Fatalf("%s=%q is no number", name, text)
	}
	return n
}

// start opens a game that ends with the test.
func start(t *testing.T, c Config, seed uint64) *game {
	t.Helper()
	began := time.Now()
	p, err := open(t.Context(), c, seed, func(format string, arguments ...any) {
		t.Logf("%6.1fs "+format, append([]any{time.Since(began).Seconds()}, arguments...)...)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.Tails(30))
		}
		if err := p.finish(t.Context(), false); err != nil {
			t.Error(err)
		}
	})
	return p
}

// few are the faults of a run that is not asked to be long: one of each kind.
var few = []string{"Primary killed", "host of the Primary silent", "Primary and Secondary cut", "Primary unheard by all", "Secondary unheard by the Primary",
	"some link flapping", "all killed, started in some order", "clock of the Secondary set at a restart", "switched over"}

// TestFaults plays faults in a random order, each with a judgement of all that clients saw: one of each kind, or, with DUET_FAILOVERS=N,
// all that there are until another node has become Primary N times. docs/TESTING.md has the other variables.
func TestFaults(t *testing.T) {
	c := setup(t, "")
	c.DataNodes, c.Witnesses = number(t, "DUET_FAILOVER_REPLICAS", 2), number(t, "DUET_FAILOVER_WITNESSES", 1)
	seed := uint64(number(t, "DUET_FAILOVER_SEED", int(time.Now().UnixNano()%1e6)))
	t.Logf("DUET_FAILOVER_SEED=%d", seed)
	p := start(t, c, seed)
	goal, only := number(t, "DUET_FAILOVERS", 0), os.Getenv("DUET_FAILOVER_ONLY")
	all := slices.DeleteFunc(faults(), func(f fault) bool {
		return !strings.Contains(f.name, only) || goal == 0 && only == "" && !slices.Contains(few, f.name)
	})
	if len(all) == 0 {
		t.Fatalf("there is no fault %q", only)
	}
	for _, f := range faults() { // failovers are what the long run is for
		if goal > 0 && f.moves && strings.Contains(f.name, only) {
			all = append(all, f, f)
		}
	}
	for played := 0; played < len(all) || p.moves < goal; played++ {
		if played%len(all) == 0 {
			p.random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		}
		if err := p.play(t.Context(), all[played%len(all)]); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.finish(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d failovers", p.moves)
}

// TestTwoPrimariesAreFound: a daemon that goes on without a lost Secondary before the cluster has committed that, while the cluster makes
// the Secondary Primary. Both acknowledge then, and its clients lose what they wrote.
func TestTwoPrimariesAreFound(t *testing.T) {
	c := setup(t, "sabotage")
	c.Environment = []string{"DUET_SABOTAGE=ack-before-commit"}
	p := start(t, c, 1)
	var err error
	for attempts := 0; err == nil; attempts++ { // clients may all have gone before
		if attempts == 10 {
			t.Fatal("nothing is wrong")
		}
		err = p.play(t.Context(), fault{name: "Primary cut off from all nodes", do: func(ctx context.Context, p *game) error {
			primary := p.primary(ctx)
			if err := p.network.Cut(ctx, apart(primary, p.others(primary))...); err != nil {
				return err
			}
			if err := p.linger(ctx, 3*time.Second); err != nil {
				return err
			}
			return p.network.Heal(ctx)
		}})
	}
	if !strings.Contains(err.Error(), "no order explains") && !strings.Contains(err.Error(), "is not Primary in or after") {
		t.Fatal(err)
	}
	t.Logf("%.500s", err)
}

// TestCalm has no faults but machines with more work than they can do, for DUET_FAILOVER_CALM (a minute, if it is not set). The Primary
// must stay who it is, unless the machine is so busy with others that it stood still for this test, too, for half of what makes a
// node suspect another.
func TestCalm(t *testing.T) {
	left, err := time.ParseDuration(cmp.Or(os.Getenv("DUET_FAILOVER_CALM"), "1m"))
	if err != nil {
		t.Fatalf("DUET_FAILOVER_CALM: %v", err)
	}
	c := setup(t, "")
	p := start(t, c, 1)
	burn(t, c.Dir)
	longest := watchStalls(t)
	const part, excuse = 15 * time.Second, 100 * time.Millisecond // parts, so that what is to be judged stays small
	for ; left > 0; left -= part {
		moves, from := p.moves, p.generation()
		err := p.play(t.Context(), fault{name: "processors and disk busy", do: func(ctx context.Context, p *game) error {
			return p.linger(ctx, min(left, part))
		}})
		if err != nil {
			t.Fatal(err)
		}
		for _, note := range p.since(from) {
			t.Logf("generation %d: %s %s", note.Generation, note.Kind, note.Reason)
		}
		stall := longest()
		if p.moves > moves && stall < excuse {
			t.Fatalf("a false failover, though this process never waited longer than %v for a processor", stall)
		}
		t.Logf("%d failovers; this process waited up to %v for a processor", p.moves-moves, stall)
	}
}

// watchStalls measures for how long this process is not run. The result returns the longest time since it was called last.
func watchStalls(t *testing.T) (longest func() time.Duration) {
	var most atomic.Int64
	ticker := time.NewTicker(5 * time.Millisecond)
	done := make(chan struct{})
	// It looks at the clock at every tick, and ends with the test.
	go func() {
		for last := time.Now(); ; last = time.Now() {
			select {
			case <-ticker.C:
				most.Store(max(most.Load(), int64(time.Since(last))))
			case <-done:
				return
			}
		}
	}()
	t.Cleanup(func() {
		ticker.Stop()
		close(done)
	})
	return func() time.Duration { return time.Duration(most.Swap(0)) }
}

// burn keeps all processors busy, and the disk, until the test ends.
func burn(t *testing.T, dir string) {
	t.Helper()
	scripts := slices.Repeat([]string{"while :; do :; done"}, runtime.NumCPU())
	for i := range 2 {
		file := filepath.Join(dir, fmt.Sprintf("burn%d", i))
		scripts = append(scripts, "while :; do dd if=/dev/zero of="+file+" bs=1M count=128 conv=fsync 2>/dev/null; done")
	}
	for i, script := range scripts {
		process, err := cluster.StartProcess(fmt.Sprintf("burn %d", i), filepath.Join(dir, "burn.log"), "sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := process.Kill(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTimes prints how long the service is away, as measured DUET_FAILOVER_TIMES times.
func TestTimes(t *testing.T) {
	times := number(t, "DUET_FAILOVER_TIMES", 0)
	if times == 0 {
		t.Skip("DUET_FAILOVER_TIMES does not say how often to measure")
	}
	table := []string{header()}
	for _, how := range []string{withSupervisor, withoutSupervisor} {
		c := setup(t, "")
		c.Arguments = []string{"--log-format", "json", "--supervisor=" + strconv.FormatBool(how == withSupervisor)}
		all := takeovers(how)
		if how == withSupervisor {
			all = append(all, otherTimes()...)
		}
		all = slices.DeleteFunc(all, func(m measurement) bool { return !strings.Contains(m.name, os.Getenv("DUET_FAILOVER_ONLY")) })
		if len(all) == 0 {
			continue
		}
		p := start(t, c, 1)
		for _, m := range all {
			line, err := p.take(t.Context(), m, times)
			if err != nil {
				t.Fatal(err)
			}
			table = append(table, line)
		}
		if err := p.finish(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	t.Log("\n" + strings.Join(table, "\n"))
}
