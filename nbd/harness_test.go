package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"duet/nbd/internal/wire"
	"duet/nbd/nbdclient"
	"duet/nbd/nbdtest"
)

// testTimeout bounds waits that end long before if all is well.
const testTimeout = 20 * time.Second

// directory is a fixed set of exports; the first is the default one.
type directory []*Export

func (d directory) Names() []string {
	var names []string
	for _, e := range d {
		names = append(names, e.Name)
	}
	return names
}

func (d directory) Open(name string) (*Export, error) {
	for _, e := range d {
		if name == "" || name == e.Name {
			return e, nil
		}
	}
	switch name {
	case "secondary":
		return nil, &Refused{Kind: RefusedPolicy, Message: "resource secondary is Secondary on this node, its Primary is node b"}
	case "leaving":
		return nil, &Refused{Kind: RefusedShutdown, Message: "resource leaving is being taken down"}
	}
	return nil, &Refused{Kind: RefusedUnknown, Message: fmt.Sprintf("there is no resource %q", name)}
}

// startServer starts a server that the end of the test closes, and checks then that no memory is out.
func startServer(t testing.TB, exports Exports, cfg Config) *Server {
	t.Helper()
	s, err := Start(exports, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeServer(t, s) })
	return s
}

func closeServer(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
	if n := s.buffers.lent.Load(); n != 0 {
		t.Errorf("%d buffers are still lent", n)
	}
	if s.reserve.freeBytes != s.cfg.SharedBytes || len(s.reserve.queue) != 0 {
		t.Errorf("reserve has %d of %d bytes and %d waiting", s.reserve.freeBytes, s.cfg.SharedBytes, len(s.reserve.queue))
	}
}

// listen serves on a fresh address and returns it.
func listen(t testing.TB, s *Server, network string) string {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "nbd.sock")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		closeServer(t, s)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func connect(t testing.TB, network, address string, cfg nbdclient.Config) *nbdclient.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	c, err := nbdclient.Dial(ctx, network, address, cfg)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, c)
	return c
}

// serveMemory is a server of one memory device on a unix socket, and a client of it.
func serveMemory(t testing.TB, cfg nbdclient.Config) (*Server, *nbdtest.Memory, *nbdclient.Client) {
	t.Helper()
	device := nbdtest.NewMemory(64 << 20)
	s := startServer(t, directory{{Name: "r0", Device: device}}, Config{})
	return s, device, connect(t, "unix", listen(t, s, "unix"), cfg)
}

// heldWrite is a write that a holding device has not completed.
type heldWrite struct {
	offset uint64
	c      Completion
}

// The devices for tests are devices.
var (
	_ Device = (*nbdtest.Memory)(nil)
	_ Device = (*nbdtest.File)(nil)
)

// holding is a device whose writes and flushes wait for the test to complete them.
type holding struct {
	*nbdtest.Memory
	held chan heldWrite
}

func newHolding(sizeBytes int) *holding {
	return &holding{Memory: nbdtest.NewMemory(sizeBytes), held: make(chan heldWrite, 4096)}
}

func (h *holding) Write(_ []byte, offset uint64, _ bool, _ Batch, c Completion) {
	h.held <- heldWrite{offset, c}
}

func (h *holding) Flush(_ Batch, c Completion) { h.held <- heldWrite{0, c} }

// failing is a device whose reads and writes fail with an error.
type failing struct {
	*nbdtest.Memory
	err error
}

func (f *failing) Read(_ []byte, _ uint64, b Batch, c Completion)          { c.Complete(b, f.err) }
func (f *failing) Write(_ []byte, _ uint64, _ bool, b Batch, c Completion) { c.Complete(b, f.err) }
func (f *failing) Zero(_, _ uint64, _, _, _ bool, b Batch, c Completion)   { c.Complete(b, f.err) }

// tape is the client's end of a pipe to a server in a synctest bubble: it sends what it is told and keeps what comes.
type tape struct {
	t      testing.TB
	conn   net.Conn
	mu     sync.Mutex
	got    []byte
	closed bool
}

func newTape(t testing.TB, s *Server) *tape {
	client, server := net.Pipe()
	tp := &tape{t: t, conn: client}
	s.ServeConn(server)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			tp.mu.Lock()
			tp.got = append(tp.got, buf[:n]...)
			tp.closed = err != nil
			tp.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	closeLater(t, client)
	return tp
}

// send sends without waiting for the server to take it.
func (tp *tape) send(p []byte) {
	go func() {
		// The server may end the connection at any byte, which is for the test to see in what it gets.
		if _, err := tp.conn.Write(p); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			tp.t.Error(err)
		}
	}()
}

// take returns what the server has sent since the last time, once it has nothing left to do.
func (tp *tape) take() (got []byte, closed bool) {
	synctest.Wait()
	tp.mu.Lock()
	defer tp.mu.Unlock()
	got, tp.got = tp.got, nil
	return got, tp.closed
}

// closeLater closes a connection when the test ends.
func closeLater(t testing.TB, conn io.Closer) {
	t.Helper()
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
}

// mute is a client in the transmission phase that has said nothing yet.
func mute(t testing.TB, s *Server) *tape {
	t.Helper()
	tp := newTape(t, s)
	tp.send(opening())
	if _, closed := tp.take(); closed {
		t.Fatal("the negotiation failed")
	}
	return tp
}

// deaf is a client that sends requests and takes no replies.
func deaf(t testing.TB, s *Server, requests []byte) {
	t.Helper()
	client, server := net.Pipe()
	s.ServeConn(server)
	closeLater(t, client)
	tp := tape{t: t, conn: client}
	tp.send(append(opening(), requests...))
	ack := wire.OptionReplyHeader{Option: wire.OptGo, Type: wire.RepAck}.Append(nil)
	var got []byte
	for p := make([]byte, 1); !bytes.HasSuffix(got, ack); got = append(got, p[0]) {
		if _, err := client.Read(p); err != nil {
			t.Fatal(err)
		}
	}
}

// advance lets the virtual time of a synctest bubble pass.
func advance(d time.Duration) { <-time.After(d) }

// ignored is a completion that nobody waits for.
type ignored struct{}

func (ignored) Complete(interface {
	Defer(f interface{ Flush() })
	More() bool
}, error) {
}

// option encodes an option.
func option(o wire.Option, data ...byte) []byte {
	return append(wire.OptionHeader{Option: o, Length: uint32(len(data))}.Append(nil), data...)
}

// goData encodes the data of INFO and GO.
func goData(name string, wants ...wire.Info) []byte {
	p := appendText(nil, name)
	p = append(p, byte(len(wants)>>8), byte(len(wants)))
	for _, w := range wants {
		p = append(p, byte(w>>8), byte(w))
	}
	return p
}

// metaData encodes the data of LIST_META_CONTEXT and SET_META_CONTEXT.
func metaData(name string, queries ...string) []byte {
	p := appendText(nil, name)
	p = append(p, 0, 0, 0, byte(len(queries)))
	for _, q := range queries {
		p = appendText(p, q)
	}
	return p
}

func appendText(dst []byte, s string) []byte {
	return append(append(dst, 0, 0, byte(len(s)>>8), byte(len(s))), s...)
}

// opening is the client's part up to the transmission phase.
func opening(options ...[]byte) []byte {
	p := []byte{0, 0, 0, 3}
	for _, o := range options {
		p = append(p, o...)
	}
	return append(p, option(wire.OptGo, goData("")...)...)
}
