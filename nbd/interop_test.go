package nbd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"duet/nbd/nbdtest"
)

const interopSize = 64 << 20

// requireTool skips the test when a tool is missing, except where CI has promised to have it.
func requireTool(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing, and CI must not skip what it can run: %v", tool, err)
		}
		t.Skipf("%s is not installed", tool)
	}
}

// run runs a tool and returns what it prints.
func run(t *testing.T, tool string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*testTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Dir = t.TempDir() // fio leaves files where it runs
	// nbdsh starts the first python3 there is, which must be the one that it was installed for.
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(cmd.Path)+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", tool, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// interopServer is a server of the exports "memory" and "file", and how to reach it.
type interopServer struct {
	memory *nbdtest.Memory
	path   string // of the file behind the export "file"
	port   string
	socket string
	certs  string // directory, when the server requires TLS
}

func newInteropServer(t *testing.T, secure bool) interopServer {
	t.Helper()
	i := interopServer{memory: nbdtest.NewMemory(interopSize), path: filepath.Join(t.TempDir(), "disk")}
	if err := os.WriteFile(i.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(i.path, interopSize); err != nil {
		t.Fatal(err)
	}
	file, err := nbdtest.OpenFile(i.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg := Config{}
	if secure {
		certs := newCertificates(t)
		i.certs = certs.dir
		cfg = Config{TLS: certs.server, TLSRequired: true}
	}
	s := startServer(t, directory{
		{Name: "memory", Description: "in memory", Device: i.memory}, {Name: "file", Description: "on a file", Device: file},
	}, cfg)
	_, i.port, err = net.SplitHostPort(listen(t, s, "tcp"))
	if err != nil {
		t.Fatal(err)
	}
	i.socket = listen(t, s, "unix")
	return i
}

// uris are the ways to an export, by name.
func (i interopServer) uris(export string) map[string]string {
	if i.certs != "" {
		return map[string]string{
			"nbds": fmt.Sprintf("nbds://localhost:%s/%s?tls-certificates=%s", i.port, export, url.QueryEscape(i.certs)),
		}
	}
	return map[string]string{
		"tcp":  fmt.Sprintf("nbd://127.0.0.1:%s/%s", i.port, export),
		"unix": fmt.Sprintf("nbd+unix:///%s?socket=%s", export, url.QueryEscape(i.socket)),
	}
}

// eachWay runs a test over unix, TCP and TLS, against both devices.
func eachWay(t *testing.T, test func(t *testing.T, i interopServer, export, uri string)) {
	for _, secure := range []bool{false, true} {
		i := newInteropServer(t, secure)
		for _, export := range []string{"memory", "file"} {
			for way, uri := range i.uris(export) {
				t.Run(export+"/"+way, func(t *testing.T) { test(t, i, export, uri) })
			}
		}
	}
}

// content returns what an export holds.
func (i interopServer) content(t *testing.T, export string) []byte {
	t.Helper()
	if export == "memory" {
		return i.memory.Bytes()
	}
	p, err := os.ReadFile(i.path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// image is a file with data and holes.
func image(t *testing.T) (path string, content []byte) {
	t.Helper()
	content = make([]byte, interopSize)
	random := rand.NewChaCha8([32]byte{1})
	for at := 0; at < interopSize; at += 8 << 20 {
		if _, err := random.Read(content[at : at+3<<20+at/1024]); err != nil {
			t.Fatal(err)
		}
	}
	path = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func TestInteropNbdinfo(t *testing.T) {
	requireTool(t, "nbdinfo")
	eachWay(t, func(t *testing.T, i interopServer, export, uri string) {
		var info struct {
			Protocol   string `json:"protocol"`
			TLS        bool   `json:"TLS"`
			Structured bool   `json:"structured"`
			Exports    []map[string]any
		}
		out := run(t, "nbdinfo", "--json", uri)
		if err := json.Unmarshal([]byte(out), &info); err != nil || len(info.Exports) != 1 {
			t.Fatalf("%v in %s", err, out)
		}
		if info.Protocol != "newstyle-fixed" || !info.Structured || info.TLS != (i.certs != "") {
			t.Errorf("%+v", info)
		}
		for key, want := range map[string]any{
			"export-name": export, "export-size": float64(interopSize), "is_read_only": false, "is_rotational": false,
			"can_flush": true, "can_fua": true, "can_trim": true, "can_zero": true, "can_fast_zero": true, "can_cache": true,
			"can_df": true, "can_multi_conn": true,
			"block_minimum": 1.0, "block_preferred": 4096.0, "block_maximum": float64(32 << 20),
		} {
			got, ok := info.Exports[0][key]
			if !ok { // older versions say block_size_minimum
				got = info.Exports[0][strings.Replace(key, "block_", "block_size_", 1)]
			}
			if got != want {
				t.Errorf("%s is %v, want %v", key, got, want)
			}
		}
	})
}

func TestInteropNbdinfoList(t *testing.T) {
	requireTool(t, "nbdinfo")
	i := newInteropServer(t, false)
	out := run(t, "nbdinfo", "--list", strings.Replace(i.uris("")["unix"], "///memory", "///", 1))
	for _, want := range []string{`export="memory"`, `export="file"`} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}

func TestInteropNbdcopy(t *testing.T) {
	requireTool(t, "nbdcopy")
	requireTool(t, "nbdinfo")
	path, want := image(t)
	eachWay(t, func(t *testing.T, i interopServer, export, uri string) {
		run(t, "nbdcopy", "--flush", "--connections=4", "--requests=64", path, uri)
		if !bytes.Equal(i.content(t, export), want) {
			t.Fatal("the upload differs")
		}
		back := filepath.Join(t.TempDir(), "back")
		run(t, "nbdcopy", uri, back)
		got, err := os.ReadFile(back)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatal("the download differs", err)
		}
		if out := run(t, "nbdinfo", "--map", uri); !strings.Contains(out, "hole,zero") || !strings.Contains(out, "data") {
			t.Errorf("map:\n%s", out)
		}
	})
}

func TestInteropNbdsh(t *testing.T) {
	requireTool(t, "nbdsh")
	// libnbd would refuse these requests itself; without its strictness the server is asked.
	script := `
import errno
h.set_uri_allow_local_file(True)
h.connect_uri(uri)
h.set_strict_mode(0)
def fails(number, f, *a, **k):
    try: f(*a, **k)
    except nbd.Error as e: assert e.errnum == number, (e.errnum, number, e)
    else: raise Exception("no error")
size = h.get_size()
fails(errno.EINVAL, h.pread, 2, size - 1)
fails(errno.ENOSPC, h.pwrite, b"xx", size - 1)
fails(errno.ENOSPC, h.zero, 2, size - 1)
fails(errno.EINVAL, h.trim, 2, size - 1)
fails(errno.EINVAL, h.pwrite, b"x", 0, flags=8)
h.pwrite(b"hello", 4095, nbd.CMD_FLAG_FUA)
assert h.pread(7, 4094) == b"\0hello\0"
h.zero(2, 4096, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(5, 4095) == b"h\0\0lo"
h.trim(1 << 20, 0, nbd.CMD_FLAG_FUA)
h.cache(1 << 20, 0)
h.flush()
big = bytearray(b"duet" * (8 << 20))
h.pwrite(big, 1 << 20)
assert h.pread(32 << 20, 1 << 20) == big
`
	eachWay(t, func(t *testing.T, _ interopServer, _, uri string) {
		run(t, "nbdsh", "-c", fmt.Sprintf("uri = %q", uri), "-c", script)
	})
}

// qemuImage is how qemu's tools are told of an export; TLS they take as an object.
func (i interopServer) qemuImage(export, uri string) (options []string, image string) {
	if i.certs == "" {
		return []string{"--image-opts"}, "driver=raw,file.driver=nbd,file.export=" + export + "," + i.qemuServer(uri)
	}
	return []string{"--object", "tls-creds-x509,id=t0,endpoint=client,dir=" + i.qemuCerts(), "--image-opts"},
		fmt.Sprintf("driver=raw,file.driver=nbd,file.host=localhost,file.port=%s,file.export=%s,file.tls-creds=t0", i.port, export)
}

func (i interopServer) qemuServer(uri string) string {
	if strings.HasPrefix(uri, "nbd+unix:") {
		return "file.path=" + i.socket
	}
	return "file.host=127.0.0.1,file.port=" + i.port
}

// qemuCerts is the directory of the certificates: qemu wants the same names as libnbd.
func (i interopServer) qemuCerts() string { return i.certs }

func TestInteropQemuIO(t *testing.T) {
	requireTool(t, "qemu-io")
	eachWay(t, func(t *testing.T, i interopServer, export, uri string) {
		options, image := i.qemuImage(export, uri)
		args := options
		for _, command := range []string{
			"write -P 0xa5 0 1M", "write -f -P 0x5a 1M 64k", "write -P 7 2M 1M", "write -z 2M 512k", "write -z -u 2560k 512k",
			"write -P 9 8M 2M", "discard 8M 1M", "flush", "read -P 0xa5 0 1M", "read -P 0x5a 1M 64k", "read -P 0 2M 1M",
			"read -P 9 9M 1M", "aio_write -P 1 16M 64k", "aio_write -P 2 17M 1M", "aio_flush", "read -P 1 16M 64k",
			"read -P 2 17M 1M", "write -P 3 4095 2", "read -P 3 4095 2", "map",
		} {
			args = append(args, "-c", command)
		}
		if out := run(t, "qemu-io", append(args, image)...); strings.Contains(out, "failed") {
			t.Error(out)
		}
	})
}

func TestInteropQemuImg(t *testing.T) {
	requireTool(t, "qemu-img")
	path, want := image(t)
	eachWay(t, func(t *testing.T, i interopServer, export, uri string) {
		options, target := i.qemuImage(export, uri)
		convert := append([]string{"convert", "-n", "-f", "raw", "--target-image-opts"}, options[:len(options)-1]...)
		run(t, "qemu-img", append(convert, path, target)...)
		if !bytes.Equal(i.content(t, export), want) {
			t.Fatal("the copy differs")
		}
		if i.certs != "" {
			return // the tools below take one set of options for both images
		}
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", path, uri)
		run(t, "qemu-img", "bench", "-f", "raw", "-w", "-c", "2000", "-d", "16", "-s", "4k", "--flush-interval=32", uri)
		var pieces []struct{ Start, Length int64 }
		out := run(t, "qemu-img", "map", "--output=json", "-f", "raw", uri)
		if err := json.Unmarshal([]byte(out), &pieces); err != nil || len(pieces) < 2 {
			t.Errorf("map: %v\n%s", err, out)
		}
	})
}

func TestInteropFio(t *testing.T) {
	requireTool(t, "fio")
	if out := run(t, "fio", "--enghelp"); !strings.Contains(out, "nbd") {
		t.Skip("fio was built without its nbd engine")
	}
	eachWay(t, func(t *testing.T, i interopServer, _, uri string) {
		if i.certs != "" {
			return // fio's nbd engine does not allow URIs that name a directory of certificates
		}
		out := run(t, "fio", "--name=v", "--ioengine=nbd", "--uri="+uri, "--rw=randrw", "--bsrange=512-1m", "--bs_unaligned",
			"--iodepth=32", "--size=32m", "--verify=crc32c", "--verify_fatal=1", "--fsync=64", "--thread", "--loops=2")
		if !strings.Contains(out, "err= 0") {
			t.Error(out)
		}
	})
}
