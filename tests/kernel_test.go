package tests

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"duet/tests/cluster"
)

// guestTimeout is the life of one guest kernel, in seconds. It boots in two.
const guestTimeout = "120"

// A real kernel attaches the device with plain nbd-client, makes a file system on it and writes files. The Primary is
// killed while more are written. On the new Primary the file system mounts, every file that was synced is there, and
// a check of the file system finds nothing.
//
// The kernel is User Mode Linux with a network card in a namespace where the daemons run. They serve plain NBD on
// loopback only, so that namespace redirects the guest's connections there.
func TestKernelFileSystemSurvivesThePrimary(t *testing.T) {
	needs(t, "linux.uml", "/bin/busybox", "nbd-client", "mkfs.ext4", "e2fsck", "ip", "nft", "cc")
	if os.Getuid() != 0 {
		missing(t, "network namespaces need root")
	}
	namespace := newNamespace(t)
	s := start(t, func(c *cluster.Config) { c.Command = []string{"ip", "netns", "exec", namespace} })
	s.create("r0", "64MiB")
	a, b := s.Node("a"), s.Node("b")
	for _, n := range s.DataNodes() {
		redirectToLoopback(t, namespace, n)
	}
	shared := t.TempDir() // the guest sees the files of this machine

	first := guest(t, namespace, makeFiles, shared, guestPort(t, a))
	await(t, filepath.Join(shared, "synced"), first)
	s.kill(a)
	if err := first.wait(); err != nil {
		t.Fatal(err)
	}
	s.promote(b, "r0")
	if err := guest(t, namespace, checkFiles, shared, guestPort(t, b)).wait(); err != nil {
		t.Fatal(err)
	}
	s.restart(a)
	s.inSync("r0")
	s.identical("r0")
}

// guestAddress and hostAddress are the two ends of the guest's network card.
const (
	guestAddress = "10.213.7.2"
	hostAddress  = "10.213.7.1"
)

// attach is how both guests begin: their arguments are the shared directory and the port of the NBD server.
const attach = `#!/bin/bash
set -e
shared=$1 port=$2
load-module nbd nbds_max=1
ip addr add ` + guestAddress + `/24 dev vec0
ip link set vec0 up
nbd-client ` + hostAddress + ` "$port" /dev/nbd0 -name r0 -connections 1
`

// makeFiles leaves a file system with 50 files that are on stable storage, says so, and goes on writing until the
// device is gone.
const makeFiles = attach + `
mkfs.ext4 -q /dev/nbd0
mkdir -p /mnt/disk
mount /dev/nbd0 /mnt/disk
for i in $(seq 50); do head -c 100000 /dev/urandom >/mnt/disk/file$i; done
(cd /mnt/disk && sha256sum file*) >"$shared/sums"
sync -f /mnt/disk
touch "$shared/synced"
set +e
for i in $(seq 100000); do
	head -c 20000 /dev/urandom >/mnt/disk/more$((i % 100)) 2>/dev/null || break
	sync -f /mnt/disk 2>/dev/null || break
done
[ "$i" -lt 100000 ]
`

// checkFiles mounts the file system, which replays its journal, and checks the files and then the structure.
const checkFiles = attach + `
mkdir -p /mnt/disk
mount /dev/nbd0 /mnt/disk
(cd /mnt/disk && sha256sum --quiet -c "$shared/sums")
umount /mnt/disk
e2fsck -f -n /dev/nbd0
nbd-client -d /dev/nbd0
`

// guestProcess is one run of scripts/uml-run.
type guestProcess struct {
	done   chan struct{} // closed when it has ended
	output []byte
	err    error
}

// guest boots a kernel that runs a script.
func guest(t *testing.T, namespace, script string, arguments ...string) *guestProcess {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	argv := append([]string{"-t", guestTimeout, "-n", namespace + ":tap0", path}, arguments...)
	command := exec.CommandContext(t.Context(), "../scripts/uml-run", argv...)
	g := &guestProcess{done: make(chan struct{})}
	go func() {
		defer close(g.done)
		g.output, g.err = command.CombinedOutput()
	}()
	t.Cleanup(func() { <-g.done })
	return g
}

// wait waits for the end of the guest, whose script must have ended well.
func (g *guestProcess) wait() error {
	<-g.done
	if g.err != nil {
		return fmt.Errorf("the guest: %w\n%s", g.err, g.output)
	}
	return nil
}

// await waits until the guest has made a file.
func await(t *testing.T, path string, g *guestProcess) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := cluster.WaitFor(ctx, "the guest to make "+filepath.Base(path), func() error {
		select {
		case <-g.done:
			cancel()
			return fmt.Errorf("it ended: %w", g.wait())
		default:
		}
		_, err := os.Stat(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// newNamespace makes a network namespace with loopback and a tap device for one guest. It goes with the test.
func newNamespace(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("duet-test-%d", os.Getpid())
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() {
		if output, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, output)
		}
	})
	inside := func(argv ...string) { run(t, append([]string{"ip", "netns", "exec", name}, argv...)...) }
	inside("ip", "link", "set", "lo", "up")
	inside("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
	inside("ip", "addr", "add", hostAddress+"/24", "dev", "tap0")
	inside("ip", "link", "set", "tap0", "up")
	// Without this the kernel drops what comes from outside for a loopback address.
	inside("sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/tap0/route_localnet")
	inside("nft", "add", "table", "ip", "duet")
	inside("nft", "add", "chain", "ip", "duet", "in", "{ type nat hook prerouting priority dstnat; }")
	// Plain NBD is for clients on loopback only, so the guest has to look like one.
	inside("nft", "add", "chain", "ip", "duet", "source", "{ type nat hook input priority 100; }")
	inside("nft", "add", "rule", "ip", "duet", "source", "ip", "saddr", guestAddress, "snat", "to", "127.0.0.1")
	return name
}

// redirectToLoopback makes a loopback port reachable for the guest under the same number.
func redirectToLoopback(t *testing.T, namespace string, n *cluster.Node) {
	t.Helper()
	run(t, "ip", "netns", "exec", namespace, "nft", "add", "rule", "ip", "duet", "in",
		"ip", "daddr", hostAddress, "tcp", "dport", guestPort(t, n), "dnat", "to", n.NBD)
}

// guestPort is the port under which the guest reaches a node's NBD server.
func guestPort(t *testing.T, n *cluster.Node) string {
	t.Helper()
	_, port, err := net.SplitHostPort(n.NBD)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
