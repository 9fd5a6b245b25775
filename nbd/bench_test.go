package nbd

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"duet/nbd/internal/wire"
	"duet/nbd/nbdtest"
)

// bareClient is a client that allocates nothing: it sends the same requests again and again.
type bareClient struct {
	conn     net.Conn
	requests []byte
	replies  []byte
}

// newBareClient opens a connection on which one round is count requests and their replies.
func newBareClient(t testing.TB, network, address string, request wire.Request, count int) *bareClient {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, conn)
	if _, err := conn.Write(append([]byte{0, 0, 0, 3}, option(wire.OptExportName)...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, wire.GreetingBytes+10)); err != nil {
		t.Fatal(err)
	}
	c := &bareClient{conn: conn}
	for i := range count {
		request.Cookie = uint64(i)
		request.Offset = uint64(i) * uint64(request.Length)
		c.requests = request.Append(c.requests)
		replyBytes := wire.SimpleReplyBytes
		switch request.Command {
		case wire.CmdWrite:
			c.requests = append(c.requests, make([]byte, request.Length)...)
		case wire.CmdRead:
			replyBytes += int(request.Length)
		}
		c.replies = append(c.replies, make([]byte, replyBytes)...)
	}
	return c
}

func (c *bareClient) round(t testing.TB) {
	if _, err := c.conn.Write(c.requests); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c.conn, c.replies); err != nil {
		t.Fatal(err)
	}
}

var loads = []struct {
	name    string
	request wire.Request
	depth   int
}{
	{"write 4k qd1", wire.Request{Command: wire.CmdWrite, Length: 4096}, 1},
	{"write 4k qd32", wire.Request{Command: wire.CmdWrite, Length: 4096}, 32},
	{"read 4k qd1", wire.Request{Command: wire.CmdRead, Length: 4096}, 1},
	{"read 4k qd32", wire.Request{Command: wire.CmdRead, Length: 4096}, 32},
	{"write 1M qd1", wire.Request{Command: wire.CmdWrite, Length: 1 << 20}, 1},
	{"read 1M qd1", wire.Request{Command: wire.CmdRead, Length: 1 << 20}, 1},
	{"flush qd1", wire.Request{Command: wire.CmdFlush}, 1},
}

// The steady path allocates nothing, neither for a request nor for a reply.
func TestNoAllocationPerRequest(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties the pools
	s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(64 << 20)}}, Config{})
	for _, network := range []string{"unix", "tcp"} {
		address := listen(t, s, network)
		for _, load := range loads {
			client := newBareClient(t, network, address, load.request, load.depth)
			for range 20 {
				client.round(t)
			}
			allocs := testing.AllocsPerRun(200, func() { client.round(t) })
			if limit := 0.1; allocs > limit && !raceEnabled {
				t.Errorf("%s over %s: %.2f allocations a round", load.name, network, allocs)
			}
		}
		s = startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(64 << 20)}}, Config{})
	}
}

func BenchmarkServer(b *testing.B) {
	path := filepath.Join(b.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 64<<20), 0o600); err != nil {
		b.Fatal(err)
	}
	file, err := nbdtest.OpenFile(path)
	if err != nil {
		b.Fatal(err)
	}
	for name, device := range map[string]Device{"memory": nbdtest.NewMemory(64 << 20), "file": file} {
		for _, network := range []string{"unix", "tcp"} {
			s := startServer(b, directory{{Name: "r0", Device: device}}, Config{})
			address := listen(b, s, network)
			for _, load := range loads {
				b.Run(name+"/"+network+"/"+load.name, func(b *testing.B) {
					client := newBareClient(b, network, address, load.request, load.depth)
					b.ReportAllocs()
					b.SetBytes(int64(load.depth) * int64(load.request.Length))
					for b.Loop() {
						client.round(b)
					}
				})
			}
		}
	}
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDecodeAndCheck is what a request costs before anything is done about it.
func BenchmarkDecodeAndCheck(b *testing.B) {
	src := wire.Request{Command: wire.CmdWrite, Flags: wire.FlagFUA, Offset: 4096, Length: 4096}.Append(nil)
	judge := terms{sizeBytes: 1 << 30}
	for b.Loop() {
		header, err := wire.DecodeRequest(src)
		if err != nil {
			b.Fatal(err)
		}
		if errno, reason := judge.check(header); errno != 0 {
			b.Fatal(reason)
		}
	}
}
