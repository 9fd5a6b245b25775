package tests

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// segment is a switch with hosts, each in a network namespace.
type segment struct {
	t     *testing.T
	names map[string]string
}

// newSegment makes the hosts, with the addresses 10.77.0.N and fd77::N on eth0. They end with the test.
func newSegment(t *testing.T, hosts ...string) *segment {
	t.Helper()
	if os.Getuid() != 0 {
		missing(t, "network namespaces need root")
	}
	needs(t, "ip")
	s := &segment{t: t, names: map[string]string{}}
	for _, host := range append([]string{"switch"}, hosts...) {
		name := fmt.Sprintf("duet-%d-%s", os.Getpid(), host)
		run(t, "ip", "netns", "add", name)
		t.Cleanup(func() {
			if output, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, output)
			}
		})
		s.names[host] = name
		s.ip(host, "link", "set", "lo", "up")
	}
	s.ip("switch", "link", "add", "br0", "type", "bridge")
	s.ip("switch", "link", "set", "br0", "up")
	for i, host := range hosts {
		port := fmt.Sprintf("p%d", i+1)
		s.ip("switch", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", s.names[host])
		s.ip("switch", "link", "set", port, "master", "br0")
		s.ip("switch", "link", "set", port, "up")
		s.ip(host, "addr", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "eth0")
		s.ip(host, "addr", "add", fmt.Sprintf("fd77::%d/64", i+1), "dev", "eth0", "nodad")
		s.ip(host, "link", "set", "eth0", "up")
	}
	return s
}

func (s *segment) ip(host string, arguments ...string) {
	s.t.Helper()
	run(s.t, append([]string{"ip", "-n", s.names[host]}, arguments...)...)
}

// cut takes the cable of a host out of the switch; hosts count from 1.
func (s *segment) cut(port string) { s.ip("switch", "link", "set", port, "down") }

// vip runs `duet vip` on a host and returns its exit status.
func (s *segment) vip(host string, arguments ...string) int {
	s.t.Helper()
	argv := append([]string{"netns", "exec", s.names[host], program(s.t, ""), "vip"}, arguments...)
	command := exec.CommandContext(s.t.Context(), "ip", argv...)
	output, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%v: %s", err, output)
	}
	if len(output) > 0 {
		s.t.Logf("%s: duet vip %s: %s", host, strings.Join(arguments, " "), output)
	}
	return command.ProcessState.ExitCode()
}

// inside calls open on a thread that is in the host's namespace. What it opens stays there; the thread ends.
func (s *segment) inside(host string, open func() error) {
	s.t.Helper()
	done := make(chan error, 1)
	go func() { // ends with open; as the thread stays locked it ends, too
		runtime.LockOSThread()
		f, err := os.Open(filepath.Join("/run/netns", s.names[host]))
		if err == nil {
			err = errors.Join(unix.Setns(int(f.Fd()), unix.CLONE_NEWNET), f.Close())
		}
		if err == nil {
			err = open()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		s.t.Fatalf("on %s: %v", host, err)
	}
}

// echo answers datagrams to an address that the host need not have yet. It ends with the test.
func (s *segment) echo(host string, address netip.AddrPort) {
	s.t.Helper()
	var conn net.PacketConn
	s.inside(host, func() (err error) {
		conn, err = freeBind.ListenPacket(s.t.Context(), "udp", address.String())
		return err
	})
	var loop sync.WaitGroup
	loop.Go(func() { // owns the answers; the end of the socket ends it
		buffer := make([]byte, 64)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, err = conn.WriteTo(buffer[:n], from)
			}
			if err != nil { // a host without its cable has nowhere to send to
				continue
			}
		}
	})
	s.t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			s.t.Error(err)
		}
		loop.Wait()
	})
}

// prober asks an address each millisecond, and remembers when it was answered.
type prober struct {
	conn  net.Conn
	loops sync.WaitGroup

	mu      sync.Mutex
	answers []time.Time // when what was answered had been sent
}

func (s *segment) probe(host string, address netip.AddrPort) *prober {
	s.t.Helper()
	p := &prober{}
	s.inside(host, func() (err error) {
		p.conn, err = net.Dial("udp", address.String())
		return err
	})
	begin, ctx := time.Now(), s.t.Context()
	p.loops.Go(func() { // owns the questions; the end of the test ends it
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				question := binary.BigEndian.AppendUint64(nil, uint64(time.Since(begin)))
				if _, err := p.conn.Write(question); err != nil {
					continue // nobody there: that is what is measured
				}
			case <-ctx.Done():
				return
			}
		}
	})
	p.loops.Go(func() { // owns the answers; the end of the socket ends it
		buffer := make([]byte, 64)
		for {
			n, err := p.conn.Read(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil || n != 8 {
				continue
			}
			p.mu.Lock()
			p.answers = append(p.answers, begin.Add(time.Duration(binary.BigEndian.Uint64(buffer))))
			p.mu.Unlock()
		}
	})
	s.t.Cleanup(func() {
		if err := p.conn.Close(); err != nil {
			s.t.Error(err)
		}
		p.loops.Wait()
	})
	return p
}

// answered is the first question after a moment that was answered, waiting for it; ok is false if ctx ends first.
func (p *prober) answered(ctx context.Context, since time.Time) (at time.Time, ok bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		for i := len(p.answers) - 1; i >= 0 && p.answers[i].After(since); i-- {
			at, ok = p.answers[i], true
		}
		p.mu.Unlock()
		if ok {
			return at, true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return at, false
		}
	}
}

// freeBind listens on addresses that are not there yet.
var freeBind = net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
	level, option := unix.IPPROTO_IP, unix.IP_FREEBIND
	if network == "udp6" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	var err error
	if controlErr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); controlErr != nil {
		return controlErr
	}
	return err
}}

// TestVirtualAddressMoves moves an address from a host that is cut off to another: a client misses it for milliseconds, because the
// neighbours are told. Without that it would miss it until it asks by itself.
func TestVirtualAddressMoves(t *testing.T) {
	for _, tt := range []struct{ name, address, prefix string }{
		{"IPv4", "10.77.0.100", "/24"},
		{"IPv6", "fd77::100", "/64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSegment(t, "n1", "n2", "n3", "client")
			at := netip.AddrPortFrom(netip.MustParseAddr(tt.address), 7)
			s.echo("n1", at)
			s.echo("n2", at)
			s.echo("n3", at)
			vip := []string{tt.address + tt.prefix, "dev", "eth0"}
			on := func(host, do string) int { return s.vip(host, append([]string{do}, vip...)...) }
			if on("n1", "status") != 1 || on("n1", "take") != 0 || on("n1", "take") != 0 || on("n1", "status") != 0 {
				t.Fatal("the address is not where it was put")
			}
			p := s.probe("client", at)
			ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
			defer cancel()
			reached := func(since time.Time) time.Time {
				t.Helper()
				first, ok := p.answered(ctx, since)
				if !ok {
					t.Fatal("no answer")
				}
				return first
			}
			reached(time.Now())

			s.cut("p1")
			last := time.Now()
			if on("n2", "take") != 0 {
				t.Fatal("n2 can't take it")
			}
			t.Logf("%s: the client missed it for %v, the start of `duet vip` included", tt.name, reached(last).Sub(last).Round(100*time.Microsecond))

			// The next host is given the address without a word: the client goes on asking n2, until it is told.
			for range 2 { // the second time it is gone already
				if on("n1", "drop") != 0 || on("n1", "status") != 1 {
					t.Fatal("n1 can't drop it")
				}
			}
			s.cut("p2")
			cut := time.Now()
			s.ip("n3", "addr", "add", vip[0], "dev", "eth0", "nodad")
			quiet, enough := context.WithTimeout(ctx, 300*time.Millisecond)
			defer enough()
			if at, ok := p.answered(quiet, cut); ok {
				t.Errorf("answered %v after the cut, without an announcement: this test shows nothing", at.Sub(cut))
			}
			told := time.Now()
			if on("n3", "take") != 0 {
				t.Fatal("n3 can't take it")
			}
			reached(told)
		})
	}
}
