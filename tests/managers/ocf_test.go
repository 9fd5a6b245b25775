package managers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"duet/tests/cluster"
)

// The exit codes of an OCF resource agent.
const (
	ocfSuccess       = 0
	ocfGeneric       = 1
	ocfUnimplemented = 3
	ocfInstalled     = 5
	ocfConfigured    = 6
	ocfNotRunning    = 7
	ocfPromoted      = 8
)

// ocfFunctions is what the agent is written against.
const ocfFunctions = "/usr/lib/ocf/lib/heartbeat/ocf-shellfuncs"

// scoreKeeper stands in for Pacemaker's crm_attribute: it writes the promotion score to a file, or removes it.
const scoreKeeper = `#!/bin/sh
echo "$@" >>"$SCORE_FILE.calls"
case "$*" in
*-D*) rm -f "$SCORE_FILE" ;;
*) for last in "$@"; do :; done; echo "$last" >"$SCORE_FILE" ;;
esac
`

// agent is the OCF agent on one node, called as Pacemaker would, and what it said last.
type agent struct {
	t           *testing.T
	node        *cluster.Node
	environment []string
	scoreFile   string
	said        string
}

// agentPath is the agent in the repository.
func agentPath(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../scripts/ocf/duet")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// agent makes the agent of a node for r0. Further settings are environment variables.
func (s *scenario) agent(n *cluster.Node, settings ...string) *agent {
	s.t.Helper()
	if _, err := os.Stat(ocfFunctions); err != nil {
		missing(s.t, "resource-agents is not installed (.ci/packages names it)")
	}
	dir := filepath.Join(s.dir, "ocf-"+n.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "crm_attribute"), []byte(scoreKeeper), 0o755); err != nil {
		s.t.Fatal(err)
	}
	a := &agent{t: s.t, node: n, scoreFile: filepath.Join(dir, "score")}
	a.environment = append(os.Environ(), "OCF_ROOT=/usr/lib/ocf", "OCF_RESOURCE_INSTANCE=duet-r0", "OCF_RESKEY_crm_feature_set=3.16.2",
		"OCF_RESKEY_resource=r0", "OCF_RESKEY_dir="+n.Dir, "OCF_RESKEY_binary="+duetPath(s.t), "OCF_RESKEY_CRM_meta_timeout=60000",
		"HA_RSCTMP="+dir, "HA_SBIN_DIR="+dir, "SCORE_FILE="+a.scoreFile)
	a.environment = append(a.environment, settings...)
	return a
}

// do runs an action and returns its exit code.
func (a *agent) do(action string, settings ...string) int {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 2*settleTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, agentPath(a.t), action)
	command.Env = append(slices.Clone(a.environment), settings...)
	output, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		a.t.Fatalf("%s on %s: %v\n%s", action, a.node.Name, errors.Join(err, ctx.Err()), output)
	}
	a.said = string(output)
	return command.ProcessState.ExitCode()
}

// want runs an action that must end with the code.
func (a *agent) want(code int, action string, settings ...string) {
	a.t.Helper()
	if got := a.do(action, settings...); got != code {
		a.t.Fatalf("%s on %s: exit code %d, want %d: %s", action, a.node.Name, got, code, a.said)
	}
}

// wantRefused is want with a part of the reason.
func (a *agent) wantRefused(code int, action, reason string, settings ...string) {
	a.t.Helper()
	a.want(code, action, settings...)
	if !strings.Contains(a.said, "ocf-exit-reason:") || !strings.Contains(a.said, reason) {
		a.t.Fatalf("%s on %s does not say %q: %s", action, a.node.Name, reason, a.said)
	}
}

// wantScore checks the promotion score; 0 stands for none.
func (a *agent) wantScore(want int) {
	a.t.Helper()
	if got := a.score(); got != want {
		a.t.Fatalf("the score of %s is %d, want %d", a.node.Name, got, want)
	}
}

func (a *agent) score() int {
	a.t.Helper()
	text, err := os.ReadFile(a.scoreFile)
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	value, numberErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err := errors.Join(err, numberErr); err != nil {
		a.t.Fatal(err)
	}
	return value
}

// until waits until monitor ends with the code and the score is the one wanted.
func (a *agent) until(code, score int) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), settleTimeout)
	defer cancel()
	err := cluster.WaitFor(ctx, fmt.Sprintf("%s to be monitored with %d", a.node.Name, code), func() error {
		if got := a.do("monitor"); got != code || a.score() != score {
			return fmt.Errorf("exit code %d, score %d: %s", got, a.score(), a.said)
		}
		return nil
	})
	if err != nil {
		a.t.Fatal(err)
	}
}

// A promotable clone through its whole life, on both nodes, with daemons that somebody else runs: probes, starts, promotions and
// demotions, a second Primary that is refused, crashes of the Primary, a hang, and the end.
func TestOCFLife(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := start(t, "manual")
	a, b := s.agent(s.Node("a")), s.agent(s.Node("b"))
	r := s.ledger()
	write := func(n *cluster.Node) { r.write(n, 300) }
	for _, x := range []*agent{a, b} {
		x.want(ocfNotRunning, "monitor", "OCF_RESKEY_CRM_meta_interval=0")
		x.want(ocfNotRunning, "promote")
		x.want(ocfSuccess, "demote")
		x.want(ocfSuccess, "stop")
		x.want(ocfSuccess, "validate-all")
		x.want(ocfSuccess, "start")
		x.want(ocfSuccess, "start")
		x.want(ocfSuccess, "monitor")
		x.wantScore(1000)
	}

	a.want(ocfSuccess, "promote")
	a.want(ocfPromoted, "monitor")
	a.wantScore(10000)
	a.want(ocfSuccess, "promote")
	b.want(ocfSuccess, "notify", "OCF_RESKEY_CRM_meta_notify_type=post", "OCF_RESKEY_CRM_meta_notify_operation=promote")
	b.want(ocfSuccess, "monitor")
	write(s.Node("a"))
	b.wantRefused(ocfGeneric, "promote", "a is Primary of r0 and answers")
	b.want(ocfSuccess, "monitor")
	a.want(ocfPromoted, "monitor")
	write(s.Node("a"))

	a.want(ocfSuccess, "demote")
	a.want(ocfSuccess, "demote")
	a.want(ocfSuccess, "monitor")
	b.want(ocfSuccess, "promote")
	b.want(ocfPromoted, "monitor")
	r.verify(s.Node("b"))
	write(s.Node("b"))

	s.kill(s.Node("b"))
	b.want(ocfNotRunning, "monitor")
	b.wantScore(0) // or Pacemaker waits for this node to come back
	b.want(ocfSuccess, "demote")
	b.want(ocfSuccess, "notify")
	b.wantRefused(ocfGeneric, "start", "manage_daemon leaves it to somebody else")
	b.want(ocfSuccess, "stop")
	b.wantScore(0)
	a.want(ocfSuccess, "promote")
	r.verify(s.Node("a"))
	write(s.Node("a"))
	s.restart(s.Node("b"))
	b.want(ocfSuccess, "start")
	s.inSync()
	b.until(ocfSuccess, 1000)

	// A crash that the manager answers in place: the same node again.
	s.kill(s.Node("a"))
	s.restart(s.Node("a"))
	a.want(ocfSuccess, "start")
	a.want(ocfSuccess, "monitor")
	a.want(ocfSuccess, "promote")
	s.inSync()

	if err := s.Node("a").Freeze(); err != nil {
		t.Fatal(err)
	}
	a.wantRefused(ocfGeneric, "monitor", "did not answer in time", "OCF_RESKEY_CRM_meta_timeout=5000")
	a.wantRefused(ocfGeneric, "stop", "it can't be told whether r0 is Primary here", "OCF_RESKEY_CRM_meta_timeout=5000")
	if err := s.Node("a").Thaw(); err != nil {
		t.Fatal(err)
	}
	a.until(ocfPromoted, 10000)

	// A daemon that runs and can't be reached may be Primary, so it is not called stopped.
	s.hideSocket(s.Node("a"), func() {
		a.wantRefused(ocfGeneric, "monitor", "the daemon is not running")
		a.want(ocfGeneric, "stop")
	})
	a.want(ocfPromoted, "monitor")

	for _, x := range []*agent{a, b} {
		x.want(ocfSuccess, "stop")
		x.want(ocfNotRunning, "monitor")
		x.wantScore(0)
		x.want(ocfSuccess, "stop")
	}
	if got := s.now(s.Node("a")); got.Role != "Secondary" || got.Primary != "" {
		t.Errorf("after stop %s is %s, and %q is Primary", "a", got.Role, got.Primary)
	}
}

// hideSocket takes a node's control socket away for a while.
func (s *scenario) hideSocket(n *cluster.Node, meanwhile func()) {
	s.t.Helper()
	path := filepath.Join(n.Dir, "control.sock")
	if err := os.Rename(path, path+".away"); err != nil {
		s.t.Fatal(err)
	}
	meanwhile()
	if err := os.Rename(path+".away", path); err != nil {
		s.t.Fatal(err)
	}
}

// The daemon is run and ended by the agent.
func TestOCFRunsTheDaemon(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := start(t, "manual")
	s.within(s.Node("b").Stop)
	b := s.agent(s.Node("b"), "OCF_RESKEY_manage_daemon=true")
	s.endDaemonOf(b.node)
	b.want(ocfNotRunning, "monitor")
	b.want(ocfSuccess, "start")
	b.want(ocfSuccess, "monitor")
	b.want(ocfSuccess, "promote")
	b.want(ocfPromoted, "monitor")
	s.inSync()
	s.client(b.node)
	b.want(ocfSuccess, "stop")
	b.want(ocfNotRunning, "monitor")
	s.within(func(ctx context.Context) error {
		return cluster.WaitFor(ctx, "the daemon to be gone", func() error {
			if pid := daemonOf(t, b.node); pid != 0 {
				return fmt.Errorf("process %d goes on", pid)
			}
			return nil
		})
	})
	if r := s.until(s.Node("a"), "nobody Primary", noPrimary); fmt.Sprint(r.InSync) != "[a b]" {
		t.Errorf("a Primary that left in good order costs a resync: in sync are %v", r.InSync)
	}

	// One that hangs is killed: what is not there is not Primary.
	b.want(ocfSuccess, "start")
	b.want(ocfSuccess, "promote")
	if err := syscall.Kill(daemonOf(t, b.node), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b.want(ocfSuccess, "stop", "OCF_RESKEY_CRM_meta_timeout=8000")
	b.want(ocfNotRunning, "monitor")

	// One that can't start says why, without waiting for the time limit.
	if err := os.Rename(filepath.Join(b.node.Dir, "tls"), filepath.Join(b.node.Dir, "tls.away")); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	b.wantRefused(ocfGeneric, "start", "the daemon ended: ")
	if waited := time.Since(begin); waited > settleTimeout {
		t.Errorf("it took %v to say so", waited)
	}
}

func noPrimary(r *cluster.Resource) error {
	if r.Primary != "" {
		return fmt.Errorf("%s is Primary", r.Primary)
	}
	return nil
}

// endDaemonOf ends what an agent has started, whatever becomes of the test.
func (s *scenario) endDaemonOf(n *cluster.Node) {
	s.t.Cleanup(func() {
		if pid := daemonOf(s.t, n); pid != 0 {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				s.t.Error(err)
			}
		}
	})
}

// daemonOf is the process that runs the test's program in the node's directory, 0 for none.
func daemonOf(t *testing.T, n *cluster.Node) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(n.Dir, "lock"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	if path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || path != duetPath(t) {
		return 0
	}
	return pid
}

// Whatever a manager asks for, in whatever order: a replica that lacks acknowledged writes does not become Primary.
func TestOCFPromotesNoOutdatedReplica(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := start(t, "manual")
	a, b := s.agent(s.Node("a")), s.agent(s.Node("b"))
	a.want(ocfSuccess, "start")
	b.want(ocfSuccess, "start")
	a.want(ocfSuccess, "promote")
	s.kill(s.Node("b"))
	r := s.ledger()
	r.write(s.Node("a"), 300)
	s.until(s.Node("a"), "a to go on alone", func(r *cluster.Resource) error {
		if fmt.Sprint(r.InSync) != "[a]" {
			return fmt.Errorf("in sync are %v", r.InSync)
		}
		return nil
	})
	s.kill(s.Node("a"))
	s.restart(s.Node("b"))

	b.want(ocfSuccess, "start")
	b.until(ocfSuccess, 0)
	for _, action := range []string{"promote", "notify", "promote", "demote", "promote", "stop", "start", "promote", "promote"} {
		code := b.do(action)
		if refused := action == "promote"; refused != (code != ocfSuccess) {
			t.Fatalf("%s: exit code %d: %s", action, code, b.said)
		}
		if action == "promote" && !strings.Contains(b.said, "not in sync") {
			t.Errorf("%s: %s", action, b.said)
		}
		b.want(map[bool]int{true: ocfNotRunning, false: ocfSuccess}[action == "stop"], "monitor")
		b.wantScore(0)
	}
	if got := s.now(s.Node("b")); got.Role != "Secondary" {
		t.Fatalf("b is %s", got.Role)
	}

	s.restart(s.Node("a"))
	a.want(ocfSuccess, "start")
	a.want(ocfSuccess, "promote")
	r.verify(s.Node("a"))
	s.inSync()
}

// A node without a majority is not promoted, and its replica is worth little, until the others are back.
func TestOCFWithoutAMajority(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := start(t, "manual")
	b := s.agent(s.Node("b"))
	b.want(ocfSuccess, "start")
	s.kill(s.Node("a"))
	s.kill(s.Node("witness"))
	b.until(ocfSuccess, 10)
	b.want(ocfGeneric, "promote", "OCF_RESKEY_CRM_meta_timeout=6000")
	b.want(ocfSuccess, "monitor")
	s.restart(s.Node("witness"))
	b.until(ocfSuccess, 1000)
	b.want(ocfSuccess, "promote")
	b.want(ocfPromoted, "monitor")
}

// What can't work is refused with one reason, before anything has happened.
func TestOCFRefusals(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := start(t, "auto")
	a := s.agent(s.Node("a"))
	for _, action := range []string{"validate-all", "start"} {
		a.wantRefused(ocfConfigured, action, "promotion policy auto")
	}
	a.want(ocfNotRunning, "promote")
	for _, c := range []struct {
		code            int
		action, setting string
		reason          string
	}{
		{ocfConfigured, "validate-all", "OCF_RESKEY_resource=", "the name of a duet resource is needed"},
		{ocfConfigured, "validate-all", "OCF_RESKEY_resource=--force", "the name of a duet resource is needed"},
		{ocfConfigured, "start", "OCF_RESKEY_resource=r0; reboot", "the name of a duet resource is needed"},
		{ocfConfigured, "validate-all", "OCF_RESKEY_dir=here", "an absolute path is needed"},
		{ocfConfigured, "validate-all", "OCF_RESKEY_manage_daemon=maybe", "true or false is needed"},
		{ocfInstalled, "start", "OCF_RESKEY_dir=/nonexistent", "not the directory of a duet node"},
		{ocfInstalled, "start", "OCF_RESKEY_binary=/nonexistent/duet", "not installed"},
		{ocfInstalled, "validate-all", "OCF_RESKEY_resource=r1", "no replica here"},
	} {
		a.wantRefused(c.code, c.action, c.reason, c.setting)
	}
	a.want(ocfNotRunning, "monitor", "OCF_RESKEY_resource=r1")
	a.want(ocfNotRunning, "monitor", "OCF_RESKEY_dir=/nonexistent")
	a.want(ocfUnimplemented, "migrate_to")
	a.wantScore(0)
}

// Debian's ocf-tester finds nothing wrong, whoever runs the daemon.
func TestOCFTester(t *testing.T) {
	t.Parallel() // it waits most of its time
	needs(t, "ocf-tester", "xmllint")
	s := start(t, "manual")
	// As nobody the tester asks for the meta-data: the agent has to be where anybody may look.
	dir, err := os.MkdirTemp("", "duet-ocf-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	text, err := os.ReadFile(agentPath(t))
	path := filepath.Join(dir, "duet")
	if err := errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(path, text, 0o755), os.Chmod(path, 0o755)); err != nil {
		t.Fatal(err)
	}
	tester := func(t *testing.T, n *cluster.Node, settings ...string) {
		argv := []string{"-n", "duet-r0", "-o", "resource=r0", "-o", "dir=" + n.Dir, "-o", "binary=" + duetPath(t)}
		ctx, cancel := context.WithTimeout(t.Context(), 2*settleTimeout)
		defer cancel()
		command := exec.CommandContext(ctx, "ocf-tester", append(append(argv, settings...), path)...)
		command.Env = append(os.Environ(), "HA_RSCTMP="+filepath.Join(s.dir, "ocf-"+n.Name))
		output, err := command.CombinedOutput()
		if err != nil || !strings.Contains(string(output), "passed all tests") {
			t.Errorf("%v\n%s", err, output)
		}
	}
	t.Run("somebody else", func(t *testing.T) { tester(t, s.Node("a")) })
	t.Run("the agent", func(t *testing.T) {
		s.within(s.Node("b").Stop)
		s.endDaemonOf(s.Node("b"))
		tester(t, s.Node("b"), "-o", "manage_daemon=true")
	})
}
