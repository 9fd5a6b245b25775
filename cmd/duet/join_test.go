package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/mux"
	"duet/internal/pki"
)

// member is a node that `duet init` made, of which only the joining side runs: the cluster port with its join channel.
type member struct {
	fakeNode
	dir    config.Dir
	config *config.Node
	ca     *pki.CA
}

// Join issues what a member would.
func (m *member) Join(_ context.Context, token string, r *control.JoinRequest) (*control.JoinReply, error) {
	if m.failure != nil {
		return nil, m.failure
	}
	if token == "" {
		return nil, errors.New("it is not known which token was used")
	}
	kind := pki.KindData
	if r.Kind == control.KindWitness {
		kind = pki.KindWitness
	}
	certificate, err := m.ca.IssueNode(r.CSR, pki.NodeRequest{Name: r.Name, Kind: kind, Hosts: []string{"127.0.0.1"}})
	if err != nil {
		return nil, err
	}
	m.joined = r
	reply := &control.JoinReply{ClusterID: m.ca.ClusterID(), Certificate: certificate, CA: m.ca.CertificatePEM(), Incarnation: 7,
		Peers: []control.Member{{Name: m.config.Name, Address: m.config.Advertise}}}
	if kind == pki.KindData {
		reply.CAKey, err = m.ca.KeyPEM()
	}
	return reply, err
}

// startMember makes a node by `duet init` and serves its join channel.
func startMember(t *testing.T, flags ...string) *member {
	t.Helper()
	addresses, err := freeAddresses(1)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{dir: config.Dir(filepath.Join(shortDir(t), "n1"))}
	got := duet(t.Context(), string(m.dir), append([]string{"init", "--name", "n1", "--listen", addresses[0]}, flags...)...)
	if got.code != 0 {
		t.Fatal(got.stderr)
	}
	if m.config, err = m.dir.LoadNode(); err != nil {
		t.Fatal(err)
	}
	if m.ca, err = m.dir.LoadAuthority(); err != nil {
		t.Fatal(err)
	}
	m.serveJoin(t)
	return m
}

func (m *member) serveJoin(t *testing.T) {
	t.Helper()
	credentials, err := m.dir.LoadCredentials()
	if err != nil {
		t.Fatal(err)
	}
	if m.config.Insecure {
		credentials = nil
	}
	port, err := mux.Listen(t.Context(), mux.Config{Node: "n1", Address: m.config.Listen, Credentials: credentials,
		Insecure: m.config.Insecure, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := port.Channel(mux.ChannelJoin)
	if err != nil {
		t.Fatal(err)
	}
	server, err := control.NewServer(control.ServerConfig{Node: m})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(listener, func(c net.Conn) control.Origin {
			identity, ok := mux.PeerOf(c)
			if !ok {
				return control.Origin{}
			}
			return control.Origin{Kind: control.OriginJoin, Name: identity.Name}
		})
	}()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(context.Background()), <-served, port.Close()); err != nil {
			t.Error(err)
		}
	})
}

func (m *member) token(t *testing.T, life time.Duration) string {
	t.Helper()
	token, err := pki.NewToken(m.ca, pki.TokenConfig{Addresses: []string{m.config.Advertise}, Life: life, Insecure: m.config.Insecure})
	if err != nil {
		t.Fatal(err)
	}
	text, err := token.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What init and join write is a node that its own cluster would know: of the right kind, with its peers, and with the
// authority's key only where that may be.
func TestInitAndJoin(t *testing.T) {
	for _, tt := range []struct {
		name      string
		first     []string // extra flags of init
		flags     []string // extra flags of join
		kind      config.Kind
		authority bool
	}{
		{"data node", nil, []string{"--nbd", "127.0.0.1:1"}, config.KindData, true},
		{"witness", nil, []string{"--witness"}, config.KindWitness, false},
		{"without TLS", []string{"--insecure"}, []string{"--insecure"}, config.KindData, true},
		{"without TLS, as the token says", []string{"--insecure"}, nil, config.KindData, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := startMember(t, tt.first...)
			dir := config.Dir(filepath.Join(shortDir(t), "n2"))
			line := append([]string{"join", "--name", "n2", "--listen", "127.0.0.1:7601", m.token(t, time.Hour)}, tt.flags...)
			if got := duet(t.Context(), string(dir), line...); got.code != 0 || !strings.Contains(got.stdout, "n2 belongs to cluster") {
				t.Fatalf("exit code %d, %q, %q", got.code, got.stdout, got.stderr)
			}
			node, err := dir.LoadNode()
			if err != nil {
				t.Fatal(err)
			}
			if node.Kind != tt.kind || node.Cluster != m.ca.ClusterID() || len(node.Peers) != 1 || node.Peers[0].Name != "n1" ||
				node.Insecure != m.config.Insecure {
				t.Errorf("node.yaml: %+v", node)
			}
			if m.joined.Address != "127.0.0.1:7601" || m.joined.NBDAddress != node.NBD {
				t.Errorf("the member was asked for %+v", m.joined)
			}
			if credentials, err := dir.LoadCredentials(); err != nil || credentials.Identity().Name != "n2" {
				t.Errorf("credentials: %v, %v", credentials, err)
			}
			if _, err := dir.LoadAuthority(); (err == nil) != tt.authority {
				t.Errorf("the authority's key: %v", err)
			}
			if incarnation, err := dir.BumpIncarnation(); err != nil || incarnation <= 7 {
				t.Errorf("the first incarnation is %d, %v", incarnation, err)
			}
			if got := duet(t.Context(), string(dir), line...); got.code != control.ExitFailed {
				t.Errorf("joining again: exit code %d", got.code)
			}
		})
	}
}

// A join that is refused says why, and a later one in the same directory works.
func TestJoinRefused(t *testing.T) {
	m := startMember(t)
	good := m.token(t, time.Hour)
	nobody, err := pki.NewToken(m.ca, pki.TokenConfig{Addresses: []string{"127.0.0.1:1"}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	unreachable, err := nobody.Text()
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewCA("other")
	if err != nil {
		t.Fatal(err)
	}
	own := m.ca
	m.ca = other
	foreign := m.token(t, time.Hour)
	m.ca = own
	dir := filepath.Join(shortDir(t), "n2")
	join := func(token string, flags ...string) result {
		return duet(t.Context(), dir, append([]string{"join", "--name", "n2", "--listen", "127.0.0.1:7601", token}, flags...)...)
	}
	used := control.Errorf(control.CodeRefused, "the token was used by n9")
	for _, tt := range []struct {
		name, token string
		failure     error
		flags       []string
		code        int
		words       string
	}{
		{"no token at all", "hello", nil, nil, control.ExitFailed, "not a join token"},
		{"mistyped", good[:20] + "x" + good[21:], nil, nil, control.ExitFailed, "mistyped"},
		{"cut", good[:len(good)-5], nil, nil, control.ExitFailed, "mistyped"},
		{"of another cluster", foreign, nil, nil, control.ExitFailed, "token"},
		{"nobody there", unreachable, nil, nil, control.ExitUnreachable, "no member can be reached"},
		{"used", good, used, nil, control.ExitFailed, "used by n9"},
		{"insecure with TLS", good, nil, []string{"--insecure"}, control.ExitUsage, "TLS"},
		{"a witness that serves", good, nil, []string{"--witness", "--nbd", "127.0.0.1:1"}, control.ExitUsage, "witness"},
	} {
		m.failure = tt.failure
		got := join(tt.token, tt.flags...)
		t.Logf("%s: %s", tt.name, got.stderr)
		if got.code != tt.code || !strings.Contains(got.stderr, tt.words) || got.stdout != "" {
			t.Errorf("%s: exit code %d, %q, want %d with %q", tt.name, got.code, got.stderr, tt.code, tt.words)
		}
		if _, err := os.Stat(config.Dir(dir).NodeFile()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: left a node.yaml: %v", tt.name, err)
		}
	}
	m.failure = nil
	if got := join(good); got.code != 0 {
		t.Errorf("after all that: %q", got.stderr)
	}
}

// init refuses a directory that is a node's, and says all that is wrong before it writes anything.
func TestInitRefused(t *testing.T) {
	m := startMember(t)
	got := duet(t.Context(), string(m.dir), "init", "--name", "x")
	if got.code != control.ExitFailed || !strings.Contains(got.stderr, "already") {
		t.Errorf("exit code %d, %q", got.code, got.stderr)
	}
	dir := filepath.Join(shortDir(t), "n3")
	if got := duet(t.Context(), dir, "init", "--name", "x", "--advertise", "nowhere"); got.code != control.ExitUsage {
		t.Errorf("exit code %d, %q", got.code, got.stderr)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is there: %v", err)
	}
}
