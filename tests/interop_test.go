package tests

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"duet/tests/cluster"
)

// interopBytes is the size of the device the programs of others work on.
const interopBytes = 64 << 20

// The NBD clients of others do their work against a running duet, over TCP, the unix socket and TLS. Afterwards the
// device and the disks of both nodes hold the same bytes.
func TestInterop(t *testing.T) {
	needs(t, "nbdinfo", "nbdcopy", "nbdsh", "qemu-io", "qemu-img", "fio")
	s := start(t)
	s.create("r0", "64MiB")
	a := s.Node("a")
	ways := []struct{ name, uri string }{
		{"TCP", a.URI("r0")},
		{"unix socket", a.UnixURI("r0")},
		{"TLS", strings.Replace(a.URI("r0"), "nbd://", "nbds://", 1) + "?tls-certificates=" + s.clientCertificates(a)},
	}
	for _, way := range ways {
		tls := strings.HasPrefix(way.uri, "nbds:")
		clients := []struct {
			name   string
			inTLS  bool // the client can do TLS by URI alone
			client func(*testing.T, string)
		}{
			{"nbdinfo", true, useNbdinfo},
			{"nbdcopy", true, useNbdcopy},
			{"nbdsh", true, useNbdsh},
			{"qemu-io", false, useQemuIO},
			{"qemu-img", false, useQemuImg},
			{"fio", false, useFio},
		}
		for _, c := range clients {
			if tls && !c.inTLS {
				continue
			}
			t.Run(c.name+" over "+way.name, func(t *testing.T) { c.client(t, way.uri) })
		}
	}
	t.Run("qemu-io over TLS", func(t *testing.T) { useQemuTLS(t, a, s.clientCertificates(a)) })

	for _, n := range s.DataNodes() {
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", a.URI("r0"), s.Disk(n.Name, "r0"))
	}
	s.identical("r0")
}

func useNbdinfo(t *testing.T, uri string) {
	if size := strings.TrimSpace(run(t, "nbdinfo", "--size", uri)); size != "67108864" {
		t.Errorf("size %s", size)
	}
	for _, can := range []string{"flush", "fua", "trim", "zero", "multi-conn", "cache"} {
		run(t, "nbdinfo", "--can", can, uri)
	}
	if list := run(t, "nbdinfo", "--list", uri); !strings.Contains(list, `export="r0"`) {
		t.Errorf("r0 is not listed:\n%s", list)
	}
	run(t, "nbdinfo", "--map", uri)
}

// useNbdcopy writes an image to the device over several connections and reads it back.
func useNbdcopy(t *testing.T, uri string) {
	dir := t.TempDir()
	image, copied := filepath.Join(dir, "image"), filepath.Join(dir, "copy")
	data := make([]byte, interopBytes)
	if _, err := rand.Read(data[interopBytes/4 : interopBytes/2]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, data, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "nbdcopy", "--flush", "--connections=4", "--requests=64", image, uri)
	run(t, "nbdcopy", "--connections=4", "--requests=64", uri, copied)
	if err := sameBytes(image, copied); err != nil {
		t.Error(err)
	}
}

// useNbdsh walks through the commands of the protocol, with what must fail among them.
func useNbdsh(t *testing.T, uri string) {
	// nbdsh takes the first python3 of the path; its module belongs to Debian's own.
	run(t, "env", "PATH=/usr/bin:/bin", "nbdsh", "-c", `
import errno
h.add_meta_context("base:allocation")
h.set_uri_allow_local_file(True)
h.connect_uri("`+uri+`")
size = h.get_size()
assert h.can_meta_context("base:allocation") and h.get_structured_replies_negotiated()

h.pwrite(b"x" * 65536, 1 << 20, nbd.CMD_FLAG_FUA)
assert h.pread(65536, 1 << 20) == bytearray(b"x" * 65536)
h.flush()
h.trim(65536, 1 << 20)
assert h.pread(65536, 1 << 20) == bytearray(65536)
h.pwrite(b"y" * 8192, size - 8192)
h.zero(4096, size - 4096, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(8192, size - 8192) == bytearray(b"y" * 4096) + bytearray(4096)
h.cache(65536, 0)

extents = []
h.block_status(size, 0, lambda context, offset, entries, error: extents.extend(entries) or 0)
assert len(extents) >= 2 and sum(extents[0::2]) <= size

# Many at once, on overlapping and on separate places, and all of them answered.
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(bytes([i]) * 4096)), (i % 24) * 4096) for i in range(64)]
while cookies:
    h.poll(-1)
    cookies = [c for c in cookies if not h.aio_command_completed(c)]

# Refused, each with its error, and the connection lives on.
def refused(call, *wanted):
    try:
        call()
    except nbd.Error as e:
        assert e.errnum in wanted, e
        return
    raise AssertionError("was accepted")
h.set_strict_mode(0)
refused(lambda: h.pwrite(b"z" * 4096, size), errno.ENOSPC, errno.EINVAL)
refused(lambda: h.pread(4096, size - 100), errno.EINVAL)
refused(lambda: h.pread(4096, (1 << 63) - 1), errno.EINVAL)
refused(lambda: h.trim(4096, size), errno.EINVAL)
assert h.pread(1, 0)
h.shutdown()
`)
}

func useQemuIO(t *testing.T, uri string) {
	output := run(t, "qemu-io", "-f", "raw",
		"-c", "write -P 0xa5 0 1M", "-c", "write -f -P 0x5a 1M 64k", "-c", "write -z 2M 1M", "-c", "write -z -u 4M 1M",
		"-c", "discard 8M 1M", "-c", "flush", "-c", "aio_write -P 1 16M 64k", "-c", "aio_flush",
		"-c", "read -P 0xa5 0 1M", "-c", "read -P 0x5a 1M 64k", "-c", "read -P 0 2M 1M", "-c", "read -P 0 4M 1M",
		"-c", "read -P 0 8M 1M", "-c", "read -P 1 16M 64k", uri)
	// qemu-io ends with success even when what it read was not the pattern.
	if strings.Contains(output, "verification failed") {
		t.Error(output)
	}
}

func useQemuImg(t *testing.T, uri string) {
	run(t, "qemu-img", "info", "-f", "raw", uri)
	run(t, "qemu-img", "map", "--output=json", "-f", "raw", uri)
	run(t, "qemu-img", "bench", "-f", "raw", "-w", "-c", "2000", "-d", "16", "-s", "4k", "--flush-interval=32", uri)
}

func useFio(t *testing.T, uri string) {
	run(t, "fio", "--name=verify", "--ioengine=nbd", "--uri="+uri, "--rw=randrw", "--bs=4k", "--iodepth=32",
		"--size=32m", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=1024", "--verify_state_save=0", "--fsync=64", "--thread", "--loops=2")
}

// useQemuTLS has QEMU verify the server and show its own certificate.
func useQemuTLS(t *testing.T, n *cluster.Node, certificates string) {
	host, port, _ := strings.Cut(n.NBD, ":")
	output := run(t, "qemu-io", "--object", "tls-creds-x509,id=tls,endpoint=client,dir="+certificates,
		"-c", "write -P 0x77 0 1M", "-c", "read -P 0x77 0 1M", "--image-opts",
		"driver=nbd,host="+host+",port="+port+",export=r0,tls-creds=tls")
	if strings.Contains(output, "verification failed") {
		t.Error(output)
	}
}
