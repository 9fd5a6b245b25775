package tests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"duet/tests/cluster"
)

// handlerScripts is where they are.
func handlerScripts(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../scripts/handlers")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// configure writes the configuration of a handler script.
func configure(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, "handlers", "conf", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// runHandler runs a script as duet would, and returns its exit status and the last line of what it said.
func runHandler(t *testing.T, argv []string, facts ...string) (status int, said string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	command.Env = append(os.Environ(), facts...)
	output, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return command.ProcessState.ExitCode(), lines[len(lines)-1]
}

// TestFenceHandler believes an agent only what it has asked back.
func TestFenceHandler(t *testing.T) {
	dir := t.TempDir()
	agent := filepath.Join(dir, "fence_fake")
	script := `#!/bin/sh
[ "$1" = "--ip=10.0.0.11" ] && [ "$2" = "--name=two words" ] || exit 9
case $3 in --action=off) exit $OFF ;; --action=status) exit $STATUS ;; --action=reboot) exit $REBOOT ;; esac; exit 9
`
	if err := os.WriteFile(agent, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	off := "AGENT=" + agent + "\nARGUMENTS=\"--ip=10.0.0.11 --name='two words'\"\n"
	for _, tt := range []struct {
		name, config string
		facts        string
		want         int
		says         string
	}{
		{"off", off, "OFF=0 STATUS=2", 0, "is off"},
		{"off already, which the agent calls a failure", off, "OFF=1 STATUS=2", 0, "is off"},
		{"the agent lies", off, "OFF=0 STATUS=0", 1, "n1 is on"},
		{"the board is silent", off, "OFF=1 STATUS=1", 2, "can't tell"},
		{"reboot", off + "ACTION=reboot\n", "REBOOT=0 STATUS=0", 0, "off and on"},
		{"no reboot", off + "ACTION=reboot\n", "REBOOT=1", 2, "could not reboot"},
		{"other action", off + "ACTION=on\n", "OFF=0", 2, "possible"},
		{"no agent", "AGENT=/no/such/agent\n", "", 2, "can't tell"},
		{"agent not named", "ACTION=off\n", "", 2, "AGENT is missing"},
		{"not configured", "", "", 2, "not known"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node := t.TempDir()
			if tt.config != "" {
				configure(t, node, "n1.fence", tt.config)
			}
			status, said := runHandler(t, []string{filepath.Join(handlerScripts(t), "fence")},
				append(strings.Fields(tt.facts), "DUET_EVENT=fence-peer", "DUET_PEER=n1", "DUET_DIR="+node)...)
			if status != tt.want || !strings.Contains(said, tt.says) {
				t.Errorf("ended with %d: %s", status, said)
			}
		})
	}
}

// TestVIPHandler has two addresses follow the role, and go when it does.
func TestVIPHandler(t *testing.T) {
	s := newSegment(t, "n1")
	dir := t.TempDir()
	configure(t, dir, "r0.vip", "ADDRESS='10.77.0.100/24 fd77::100/64'\nINTERFACE=eth0\n")
	handler := func(resource, event string) int {
		status, said := runHandler(t, []string{"ip", "netns", "exec", s.names["n1"], filepath.Join(handlerScripts(t), "vip")},
			"DUET_EVENT="+event, "DUET_RESOURCE="+resource, "DUET_DIR="+dir, "DUET_PROGRAM="+program(t, ""))
		if status != 0 {
			t.Logf("%s %s: %s", resource, event, said)
		}
		return status
	}
	here := func() string {
		return fmt.Sprint(s.vip("n1", "status", "10.77.0.100/24", "dev", "eth0"), s.vip("n1", "status", "fd77::100/64", "dev", "eth0"))
	}
	for _, step := range []struct{ resource, event, want string }{
		{"r1", "after-promote", "1 1"}, // no address goes with it
		{"r0", "after-promote", "0 0"},
		{"r0", "after-promote", "0 0"},
		{"r0", "before-demote", "1 1"},
		{"r0", "after-demote", "1 1"},
	} {
		if status, got := handler(step.resource, step.event), here(); status != 0 || got != step.want {
			t.Fatalf("%v: ended with %d, and the addresses' status is %s", step, status, got)
		}
	}
	configure(t, dir, "r0.vip", "ADDRESS=10.77.0.100/24\nINTERFACE=eth9\n")
	if handler("r0", "after-promote") != 1 {
		t.Error("an interface that is not there is no failure")
	}
}

// mountNamespace is where the daemons of a scenario live, so that what their handlers mount is nobody else's. It ends with the test.
func mountNamespace(t *testing.T) (holder int) {
	t.Helper()
	if os.Getuid() != 0 {
		missing(t, "mounting needs root")
	}
	p, err := cluster.StartProcess("holder", filepath.Join(t.TempDir(), "log"), "unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 100000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	if err := cluster.WaitFor(t.Context(), "the namespace", func() error {
		if p.Tail(1) != "ready" {
			return errors.New("not yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return p.PID()
}

// The kernel here has no NBD: nbdfuse makes a file of the export, and a loop device makes a block device of that.
const (
	attachByFUSE = `mkdir -p "$FUSE" && setsid nbdfuse "$FUSE/disk" "nbd+unix:///$DUET_RESOURCE?socket=$DUET_NBD_SOCKET" </dev/null >/dev/null 2>&1 &
until [ -s "$FUSE/disk" ]; do sleep 0.02; done
ln -sfn "$(losetup -f --show --direct-io=on "$FUSE/disk")" "$DEVICE"
`
	detachFUSE = `losetup -d "$(readlink "$DEVICE")"; rm -f "$DEVICE"; umount "$FUSE" || umount -l "$FUSE"
`
)

// TestFilesystemHandler mounts an ext4 filesystem where the Primary is: on a node that becomes it, off one that gives the role up and off
// one that was killed, once it is back. A mount that is in use keeps the role where it is, and says by whom.
func TestFilesystemHandler(t *testing.T) {
	needs(t, "unshare", "nsenter", "nbdfuse", "nbdcopy", "losetup", "mkfs.ext4", "debugfs")
	holder := mountNamespace(t)
	inside := []string{"nsenter", "-t", strconv.Itoa(holder), "-m"}
	s := start(t, func(c *cluster.Config) { c.Command = inside })
	a, b := s.Node("a"), s.Node("b")
	s.create("r0", "32MiB", "--promotion", "manual")
	image := filepath.Join(s.dir, "ext4.img")
	run(t, "mkfs.ext4", "-q", "-F", image, "32M")
	run(t, "nbdcopy", image, a.UnixURI("r0"))
	for _, n := range []*cluster.Node{a, b} {
		s.installFilesystem(n, inside)
	}
	seen := func(n *cluster.Node, name string) string {
		return filepath.Join("/proc", strconv.Itoa(holder), "root", s.dir, "mnt-"+n.Name, name)
	}

	s.duet(a, "secondary", "r0") // nothing is mounted, as it was made Primary without the handlers
	s.promote(a, "r0")
	s.mounted(a, true, inside)
	if err := os.WriteFile(seen(a, "file"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}

	busy, err := cluster.StartProcess("busy", filepath.Join(s.dir, "busy.log"), append(inside, "sh", "-c", "cd "+filepath.Join(s.dir, "mnt-a")+" && echo ready && exec sleep 100000")...)
	if err != nil {
		t.Fatal(err)
	}
	s.waitFor("somebody to be in the mount", func() error {
		if busy.Tail(1) != "ready" {
			return errors.New("not yet")
		}
		return nil
	})
	result, err := a.Command(t.Context(), "secondary", "r0")
	if want := fmt.Sprintf("in use by %d (sleep)", busy.PID()); err != nil || result.ExitCode != 1 || !strings.Contains(result.Stderr, want) {
		t.Fatalf("exit code %d, %v: %s, want %q", result.ExitCode, err, result.Stderr, want)
	}
	s.mounted(a, true, inside)
	if err := busy.Kill(); err != nil {
		t.Fatal(err)
	}
	s.duet(a, "secondary", "r0")
	s.mounted(a, false, inside)

	s.promote(b, "r0")
	s.mounted(b, true, inside)
	if text, err := os.ReadFile(seen(b, "file")); err != nil || string(text) != "kept" {
		t.Fatalf("on b there is %q, %v", text, err)
	}
	f, err := os.Create(seen(b, "flushed"))
	if err == nil {
		_, err = f.WriteString("kept, too")
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	s.kill(b)
	s.promote(a, "r0")
	s.mounted(a, true, inside)
	if text, err := os.ReadFile(seen(a, "flushed")); err != nil || string(text) != "kept, too" {
		t.Fatalf("on a there is %q, %v", text, err)
	}
	s.restart(b)
	s.mounted(b, false, inside)
	s.inSync("r0")
	if err := os.WriteFile(seen(a, "unflushed"), []byte("by the unmount"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.stop(a) // unmounts while the device is served
	s.mounted(a, false, inside)
	if text := run(t, "debugfs", "-R", "cat /unflushed", s.Disk("a", "r0")); !strings.Contains(text, "by the unmount") {
		t.Errorf("on the disk there is %q", text)
	}
}

// installFilesystem links the handler in, with what attaches the device on this machine.
func (s *scenario) installFilesystem(n *cluster.Node, inside []string) {
	s.t.Helper()
	fuse, device, mnt := filepath.Join(s.dir, "fuse-"+n.Name), filepath.Join(s.dir, "device-"+n.Name), filepath.Join(s.dir, "mnt-"+n.Name)
	attach, detach := filepath.Join(n.Dir, "attach"), filepath.Join(n.Dir, "detach")
	for path, script := range map[string]string{attach: attachByFUSE, detach: detachFUSE} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\nFUSE="+fuse+"\n"+script), 0o700); err != nil {
			s.t.Fatal(err)
		}
	}
	configure(s.t, n.Dir, "r0.filesystem", fmt.Sprintf("MOUNTPOINT=%s\nDEVICE=%s\nFSTYPE=ext4\nATTACH=%s\nDETACH=%s\n", mnt, device, attach, detach))
	for _, link := range []string{"after-promote.d/10-filesystem", "before-demote.d/20-filesystem"} {
		path := filepath.Join(n.Dir, "handlers", link)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.Symlink(filepath.Join(handlerScripts(s.t), "filesystem"), path)); err != nil {
			s.t.Fatal(err)
		}
	}
	s.t.Cleanup(func() { // what a test that failed leaves; a loop device is the whole machine's
		script := fmt.Sprintf(`umount -l %s; [ ! -e %s ] || DEVICE=%s %s`, mnt, device, device, detach)
		command := exec.Command(inside[0], append(inside[1:], "sh", "-c", script)...)
		if output, err := command.CombinedOutput(); err != nil && s.t.Failed() {
			s.t.Logf("clear up: %v: %s", err, output)
		}
	})
}

// mounted waits until the filesystem is mounted on a node, or isn't, and its device is there, or isn't.
func (s *scenario) mounted(n *cluster.Node, want bool, inside []string) {
	s.t.Helper()
	s.waitFor(fmt.Sprintf("the filesystem on %s mounted: %v", n.Name, want), func() error {
		mounts, err := exec.Command(inside[0], append(inside[1:], "cat", "/proc/self/mounts")...).Output()
		if err != nil {
			return err
		}
		_, err = os.Lstat(filepath.Join(s.dir, "device-"+n.Name))
		attached, mounted := err == nil, strings.Contains(string(mounts), filepath.Join(s.dir, "mnt-"+n.Name)+" ext4")
		if mounted != want || attached != want {
			return fmt.Errorf("mounted: %v, attached: %v", mounted, attached)
		}
		return nil
	})
}
