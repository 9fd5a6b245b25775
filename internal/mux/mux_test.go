package mux

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"duet/internal/pki"
)

// within is how long tests wait for what must happen.
const within = 20 * time.Second

// logBuffer is a log that tests can read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("cluster-1")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func credentials(t *testing.T, ca *pki.CA, name string, kind pki.Kind) *pki.Credentials {
	t.Helper()
	csr, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := ca.IssueNode(csr, pki.NodeRequest{Name: name, Kind: kind})
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.ParseCredentials(ca.CertificatePEM(), certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// listen starts a Mux; without credentials an insecure one.
func listen(t *testing.T, config Config) *Mux {
	t.Helper()
	if config.Node == "" {
		config.Node = "a"
	}
	config.Address, config.Insecure = "127.0.0.1:0", config.Credentials == nil
	m, err := Listen(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *Mux) claim(t *testing.T, channel Channel) net.Listener {
	t.Helper()
	l, err := m.Channel(channel)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newDialer(t *testing.T, node string, c *pki.Credentials) *Dialer {
	t.Helper()
	d, err := NewDialer(node, c, within)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func closeIt(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// raw connects without saying anything.
func raw(t *testing.T, m *Mux) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", m.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ignoreClosed(conn.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// answerTo says a line and returns all that comes back until the end.
func answerTo(t *testing.T, conn net.Conn, line string) string {
	t.Helper()
	if _, err := io.WriteString(conn, line); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("after %q: %v", answer, err)
	}
	return string(answer)
}

// eventually waits for a condition that nothing announces.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !holds(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// TestChannels connects on every channel, with and without TLS, and checks who
// each end thinks the other is, and that bytes pass both ways.
func TestChannels(t *testing.T) {
	ca := newCA(t)
	a, b, w := credentials(t, ca, "a", pki.KindData), credentials(t, ca, "b", pki.KindData), credentials(t, ca, "w", pki.KindWitness)
	cases := []struct {
		name   string
		server *pki.Credentials
		dialer *Dialer
		want   pki.Identity
	}{
		{"TLS, data", a, newDialer(t, "b", b), pki.Identity{Name: "b", Kind: pki.KindData}},
		{"TLS, witness", a, newDialer(t, "w", w), pki.Identity{Name: "w", Kind: pki.KindWitness}},
		{"insecure", nil, newDialer(t, "b", nil), pki.Identity{Name: "b", Kind: pki.KindData}},
	}
	for _, c := range cases {
		m := listen(t, Config{Credentials: c.server})
		for _, channel := range []Channel{ChannelRaft, ChannelForward, ChannelControl} {
			t.Run(c.name+", "+string(channel), func(t *testing.T) {
				l := m.claim(t, channel)
				defer closeIt(t, l)
				for _, node := range []string{"a", ""} {
					dialed, err := c.dialer.Dial(t.Context(), m.Addr().String(), node, channel)
					if err != nil {
						t.Fatal(err)
					}
					accepted, err := l.Accept()
					if err != nil {
						t.Fatal(err)
					}
					checkEnds(t, dialed, accepted, c.want, channel)
				}
			})
		}
	}
}

func checkEnds(t *testing.T, dialed *Conn, accepted net.Conn, want pki.Identity, channel Channel) {
	t.Helper()
	if got, ok := PeerOf(accepted); !ok || got != want || accepted.(*Conn).Channel != channel {
		t.Errorf("accepted from %v", got)
	}
	if got, ok := PeerOf(dialed); !ok || got != (pki.Identity{Name: "a", Kind: pki.KindData}) || dialed.Channel != channel {
		t.Errorf("dialed %v", got)
	}
	for _, ends := range [][2]net.Conn{{dialed, accepted}, {accepted, dialed}} {
		got := make([]byte, 5)
		if _, err := ends[0].Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(ends[1], got); err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
	}
	closeIt(t, dialed)
	if _, err := accepted.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
	closeIt(t, accepted)
}

// TestNetConn is about the way to the TCP connection: there without TLS, and
// not there at all with it.
func TestNetConn(t *testing.T) {
	ca := newCA(t)
	for _, secure := range []bool{false, true} {
		var a, b *pki.Credentials
		if secure {
			a, b = credentials(t, ca, "a", pki.KindData), credentials(t, ca, "b", pki.KindData)
		}
		m := listen(t, Config{Credentials: a})
		l := m.claim(t, ChannelPeer)
		dialed, err := newDialer(t, "b", b).Dial(t.Context(), m.Addr().String(), "a", ChannelPeer)
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, conn := range []net.Conn{dialed, accepted} {
			inner := conn.(interface{ NetConn() net.Conn }).NetConn()
			if _, isTCP := inner.(*net.TCPConn); isTCP == secure {
				t.Errorf("secure %v: NetConn is %T", secure, inner)
			}
			if _, further := inner.(interface{ NetConn() net.Conn }); further {
				t.Errorf("secure %v: NetConn leads further", secure)
			}
			closeIt(t, conn)
		}
	}
}

func TestRefusals(t *testing.T) {
	ca := newCA(t)
	a, w := credentials(t, ca, "a", pki.KindData), credentials(t, ca, "w", pki.KindWitness)
	m := listen(t, Config{Credentials: a})
	for _, channel := range []Channel{ChannelRaft, ChannelPeer, ChannelJoin} {
		m.claim(t, channel)
	}
	other := credentials(t, newCA(t), "b", pki.KindData)
	b := credentials(t, ca, "b", pki.KindData)
	cases := []struct {
		name    string
		dialer  *Dialer
		node    string
		channel Channel
		is      error
		says    string
	}{
		{"witness on the data channel", newDialer(t, "w", w), "a", ChannelPeer, ErrRefused, `"w" (duet-witness) may not use channel peer`},
		{"node of another cluster", newDialer(t, "b", other), "a", ChannelRaft, pki.ErrOtherCluster, ""},
		{"another node", newDialer(t, "b", b), "c", ChannelRaft, pki.ErrOtherNode, `it is "a", not "c"`},
		{"nobody listens", newDialer(t, "b", b), "a", ChannelControl, ErrRefused, "not served here now"},
		{"node on the join channel", newDialer(t, "b", b), "a", ChannelJoin, nil, "can't use channel"},
		{"no such channel", newDialer(t, "b", b), "a", "other", nil, "can't use channel"},
		{"without TLS", newDialer(t, "b", nil), "a", ChannelRaft, ErrRefused, "this node speaks TLS only"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			conn, err := c.dialer.Dial(t.Context(), m.Addr().String(), c.node, c.channel)
			wantError(t, err, c.is, c.says)
			if conn != nil {
				t.Error("there is a connection")
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

// TestJoin lets a token in on its channel, and nowhere else, whatever the dialer
// on the other side does.
func TestJoin(t *testing.T) {
	ca := newCA(t)
	a := credentials(t, ca, "a", pki.KindData)
	for _, secure := range []bool{true, false} {
		config := Config{}
		if secure {
			config.Credentials = a
		}
		m := listen(t, config)
		join := m.claim(t, ChannelJoin)
		m.claim(t, ChannelRaft)
		token, err := pki.NewToken(ca, pki.TokenConfig{Addresses: []string{m.Addr().String()}, Life: time.Hour, Insecure: !secure})
		if err != nil {
			t.Fatal(err)
		}
		dialer, err := NewJoinDialer(token, within)
		if err != nil {
			t.Fatal(err)
		}
		dialed, err := dialer.Dial(t.Context(), token.Addresses[0], "", ChannelJoin)
		if err != nil {
			t.Fatal(err)
		}
		closeIt(t, dialed)
		accepted, err := join.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := PeerOf(accepted); got != (pki.Identity{Name: token.ID, Kind: pki.KindJoin}) {
			t.Errorf("%v", got)
		}
		closeIt(t, accepted)
		if _, err := dialer.Dial(t.Context(), token.Addresses[0], "", ChannelRaft); err == nil {
			t.Error("the dialer lets a token dial raft")
		}
		if !secure {
			continue // identity is only claimed there
		}
		dialer.joins = false // a dishonest dialer
		for _, channel := range []Channel{ChannelRaft, ChannelForward, ChannelControl, ChannelPeer} {
			_, err := dialer.Dial(t.Context(), token.Addresses[0], "", channel)
			wantError(t, err, ErrRefused, "(duet-join) may not use channel "+string(channel))
		}
	}
}

// TestExpiredToken is an expired token tried nevertheless.
func TestExpiredToken(t *testing.T) {
	ca := newCA(t)
	m := listen(t, Config{Credentials: credentials(t, ca, "a", pki.KindData)})
	m.claim(t, ChannelJoin)
	token, err := pki.NewToken(ca, pki.TokenConfig{Addresses: []string{"x:1"}, Life: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	dialer, err := NewJoinDialer(token, within)
	if err != nil {
		t.Fatal(err)
	}
	// Certificates count whole seconds: the end of the token's life is at most
	// one away.
	eventually(t, "the end of the token", func() bool {
		conn, dialErr := dialer.Dial(t.Context(), m.Addr().String(), "", ChannelJoin)
		if dialErr == nil {
			closeIt(t, conn)
		}
		err = dialErr
		return dialErr != nil
	})
	wantError(t, err, pki.ErrRefusedByPeer, "expired")
}

func TestVersionMismatch(t *testing.T) {
	log := &logBuffer{}
	m := listen(t, Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
	m.claim(t, ChannelPeer)
	const says = "peer speaks DUET/9, this node DUET/1"
	if answer := answerTo(t, raw(t, m), "DUET/9 peer b\n"); !strings.HasPrefix(answer, "DUET/1 REFUSED ") || !strings.Contains(answer, says) {
		t.Errorf("answer %q", answer)
	}
	eventually(t, "a line in the log", func() bool { return strings.Contains(log.String(), says) })

	// And seen from a dialer of this version.
	address := serve(t, func(conn net.Conn) error {
		if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
			return err
		}
		_, err := io.WriteString(conn, "DUET/2 REFUSED too old\n")
		return err
	})
	_, err := newDialer(t, "b", nil).Dial(t.Context(), address, "a", ChannelPeer)
	wantError(t, err, ErrVersion, "peer speaks DUET/2, this node DUET/1", address, "peer")
}

// serve answers one connection at an address of its own.
func serve(t *testing.T, answer func(net.Conn) error) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			err = errors.Join(answer(conn), conn.Close())
		}
		done <- err
	}()
	t.Cleanup(func() {
		if err := errors.Join(<-done, l.Close()); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func TestNonsense(t *testing.T) {
	ca := newCA(t)
	insecure := listen(t, Config{})
	// Nothing that is sent to this one makes a handshake, so that it may wait
	// for more only briefly.
	secure := listen(t, Config{Credentials: credentials(t, ca, "a", pki.KindData), HandshakeTimeout: 100 * time.Millisecond})
	insecure.claim(t, ChannelRaft)
	cases := map[string]string{
		"GET / HTTP/1.1\r\n\r\n": ErrNotDuet.Error(),
		"\x16\x03\x01\x00":       "--insecure",
		"DUET/1\n":               ErrNotDuet.Error(),
		"DUET/1 raft\n":          "must name the node",
		"DUET/1 raft A\n":        "no name of a node",
		"DUET/1 none a\n":        `no channel "none"`,
		"DUET/1 control a\n":     "not served here now",
		"DUET/1 " + noise(300):   "longer than",
	}
	for line, want := range cases {
		if answer := answerTo(t, raw(t, insecure), line); !strings.HasPrefix(answer, "DUET/1 REFUSED ") || !strings.Contains(answer, want) {
			t.Errorf("%q is answered %q", line, answer)
		}
		answer := answerTo(t, raw(t, secure), line)
		if strings.Contains(answer, "DUET") && answer != refusal(errWantsTLS.Error()) {
			t.Errorf("with TLS, %q is answered %q", line, answer)
		}
	}
	// Text after the first line, before the answer, is no part of the
	// introduction, and must not be lost.
	l := insecure.claim(t, ChannelForward)
	conn := raw(t, insecure)
	if _, err := io.WriteString(conn, "DUET/1 forward b\nmore"); err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(accepted, got); err != nil || string(got) != "more" {
		t.Errorf("%q, %v", got, err)
	}
	closeIt(t, accepted)
}

func TestStrangerWithoutCertificate(t *testing.T) {
	m := listen(t, Config{Credentials: credentials(t, newCA(t), "a", pki.KindData)})
	m.claim(t, ChannelRaft)
	client := tls.Client(raw(t, m), &tls.Config{InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	_, err := client.Read(make([]byte, 1))
	wantError(t, pki.Explain(err), pki.ErrRefusedByPeer, "there is none")
}

func TestInsecureIsForLoopbackOnly(t *testing.T) {
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:7600"} {
		_, err := Listen(t.Context(), Config{Node: "a", Address: address, Insecure: true})
		wantError(t, err, ErrInsecure, address, "loopback")
	}
	_, err := newDialer(t, "b", nil).Dial(t.Context(), "192.0.2.1:7600", "a", ChannelRaft)
	wantError(t, err, ErrInsecure, "192.0.2.1:7600")
}

func TestConfigs(t *testing.T) {
	ca := newCA(t)
	a := credentials(t, ca, "a", pki.KindData)
	for want, config := range map[string]Config{
		"node name":               {Node: "A", Insecure: true},
		"credentials are missing": {Node: "a"},
		"TLS is off":              {Node: "a", Insecure: true, Credentials: a},
		"a bound is negative":     {Node: "a", Insecure: true, Backlog: -1},
	} {
		config.Address = "127.0.0.1:0"
		_, err := Listen(t.Context(), config)
		wantError(t, err, nil, want)
	}
	_, err := NewDialer("b", a, 0)
	wantError(t, err, nil, `those of "a" (duet-node), not of "b"`)
	_, err = NewDialer("B", nil, 0)
	wantError(t, err, nil, "node name")
	m := listen(t, Config{})
	_, err = m.Channel("other")
	wantError(t, err, ErrChannel, "unknown")
	l := m.claim(t, ChannelRaft)
	_, err = m.Channel(ChannelRaft)
	wantError(t, err, ErrChannel, "has a listener")
	closeIt(t, l)
	closeIt(t, l)
	m.claim(t, ChannelRaft)
}

// TestStalledClient says nothing, or half of something: it is hung up on.
func TestStalledClient(t *testing.T) {
	ca := newCA(t)
	for _, c := range []*pki.Credentials{nil, credentials(t, ca, "a", pki.KindData)} {
		m := listen(t, Config{Credentials: c, HandshakeTimeout: 50 * time.Millisecond})
		for _, beginning := range []string{"", "DUET/1 ra", "\x16\x03\x01\x02\x00\x01\x00"} {
			conn := raw(t, m)
			if _, err := io.WriteString(conn, beginning); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Errorf("%q: %v", beginning, err)
			}
		}
	}
}

// TestFlood opens many more connections than there may be introductions, says
// nothing on them, and finds that a node still gets in, and that goroutines stay
// bounded.
func TestFlood(t *testing.T) {
	const limit, flood = 8, 200
	before := runtime.NumGoroutine()
	ca := newCA(t)
	m := listen(t, Config{Credentials: credentials(t, ca, "a", pki.KindData), MaxHandshakes: limit, HandshakeTimeout: within})
	l := m.claim(t, ChannelRaft)
	for range flood {
		raw(t, m)
	}
	dialer := newDialer(t, "b", credentials(t, ca, "b", pki.KindData))
	conn, err := dialer.Dial(t.Context(), m.Addr().String(), "a", ChannelRaft)
	if err != nil {
		t.Fatal(err)
	}
	closeIt(t, conn)
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	closeIt(t, accepted)
	// The accepting goroutine, the handshakes, and one of spare for the
	// runtime's own.
	if extra := runtime.NumGoroutine() - before; extra > limit+2 {
		t.Errorf("%d goroutines for a flood", extra)
	}
}

// TestBacklog fills the queue of a channel: the next one is refused, and another
// channel isn't affected.
func TestBacklog(t *testing.T) {
	const backlog = 3
	m := listen(t, Config{Backlog: backlog})
	full := m.claim(t, ChannelRaft)
	m.claim(t, ChannelControl)
	dialer := newDialer(t, "b", nil)
	dial := func(channel Channel) error {
		conn, err := dialer.Dial(t.Context(), m.Addr().String(), "a", channel)
		if err == nil {
			t.Cleanup(func() { closeIt(t, conn) })
		}
		return err
	}
	for range backlog {
		if err := dial(ChannelRaft); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, dial(ChannelRaft), ErrRefused, "too many connections wait")
	if err := dial(ChannelControl); err != nil {
		t.Errorf("another channel: %v", err)
	}
	conn, err := full.Accept()
	if err != nil {
		t.Fatal(err)
	}
	closeIt(t, conn)
	if err := dial(ChannelRaft); err != nil {
		t.Errorf("after one was accepted: %v", err)
	}
}

// TestClose closes while connections are in every state.
func TestClose(t *testing.T) {
	m := listen(t, Config{HandshakeTimeout: within})
	l := m.claim(t, ChannelRaft)
	silent := raw(t, m)
	dialer := newDialer(t, "b", nil)
	waiting, err := dialer.Dial(t.Context(), m.Addr().String(), "a", ChannelRaft)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the silent one's introduction", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.pending.all) == 1
	})
	accepting := make(chan error, 1)
	other := m.claim(t, ChannelControl)
	go func() {
		_, err := other.Accept()
		accepting <- err
	}()
	closeIt(t, m)
	if n := len(m.slots); n != 0 {
		t.Errorf("%d handshakes outlive Close", n)
	}
	closeIt(t, m)
	wantError(t, <-accepting, net.ErrClosed)
	_, err = l.Accept()
	wantError(t, err, net.ErrClosed)
	for _, conn := range []net.Conn{silent, waiting} {
		if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("still open: %v", err)
		}
	}
	closeIt(t, waiting)
	_, err = m.Channel(ChannelRaft)
	wantError(t, err, net.ErrClosed)
	_, err = dialer.Dial(t.Context(), m.Addr().String(), "a", ChannelRaft)
	wantError(t, err, nil)
}

// TestDialEnds has the other end stall at every stage of the introduction.
func TestDialEnds(t *testing.T) {
	ca := newCA(t)
	b := credentials(t, ca, "b", pki.KindData)
	for _, c := range []*pki.Credentials{nil, b} {
		accepted, release := make(chan struct{}), make(chan struct{})
		address := serve(t, func(net.Conn) error {
			close(accepted)
			<-release
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := newDialer(t, "b", c).Dial(ctx, address, "a", ChannelRaft)
			result <- err
		}()
		<-accepted
		cancel()
		wantError(t, <-result, context.Canceled, address)
		close(release)
	}
	release := make(chan struct{})
	address := serve(t, func(net.Conn) error { <-release; return nil })
	dialer, err := NewDialer("b", nil, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	_, err = dialer.Dial(t.Context(), address, "a", ChannelRaft)
	wantError(t, err, context.DeadlineExceeded)
	close(release)
}

// TestDialMeetsOthers is about answers that aren't ours.
func TestDialMeetsOthers(t *testing.T) {
	for answer, want := range map[string]error{
		"SSH-2.0-x\r\n": ErrNotDuet, "DUET/1 OK c\n": ErrOtherNode, "DUET/1 MAYBE\n": ErrNotDuet, "": io.EOF, "DUET/1": io.ErrUnexpectedEOF,
		"DUET/1 REFUSED go away\n": ErrRefused,
	} {
		address := serve(t, func(conn net.Conn) error {
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err == nil && line != "DUET/1 raft b\n" {
				err = fmt.Errorf("got %q", line)
			}
			if err == nil {
				_, err = io.WriteString(conn, answer)
			}
			return err
		})
		_, err := newDialer(t, "b", nil).Dial(t.Context(), address, "a", ChannelRaft)
		wantError(t, err, want, address)
	}
	// TLS towards a node that runs without.
	m := listen(t, Config{})
	b := credentials(t, newCA(t), "b", pki.KindData)
	_, err := newDialer(t, "b", b).Dial(t.Context(), m.Addr().String(), "a", ChannelRaft)
	wantError(t, err, pki.ErrNoTLS, "--insecure")
}

// TestManyAtOnce has many dialers and closers at work together, for the race
// detector, and counts that each accepted connection is whole.
func TestManyAtOnce(t *testing.T) {
	m := listen(t, Config{})
	l := m.claim(t, ChannelRaft)
	var acceptor sync.WaitGroup
	acceptor.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := io.Copy(conn, conn); err != nil {
				t.Error(err)
			}
			closeIt(t, conn)
		}
	})
	var dialers sync.WaitGroup
	for range 8 {
		dialers.Go(func() {
			for range 20 {
				conn, err := newDialer(t, "b", nil).Dial(t.Context(), m.Addr().String(), "a", ChannelRaft)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := conn.Write([]byte("x")); err != nil {
					t.Error(err)
				}
				if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
					t.Error(err)
				}
				closeIt(t, conn)
			}
		})
	}
	dialers.Wait()
	closeIt(t, l)
	acceptor.Wait()
}
