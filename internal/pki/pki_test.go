package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func wantError(t *testing.T, err, is error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("error %q is not %q", err, is)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

func newCA(t testing.TB) *CA {
	t.Helper()
	ca, err := NewCA("cluster-1")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// at makes what the authority issues next as if the time were other by d.
func (ca *CA) at(d time.Duration) *CA {
	moved := *ca
	moved.now = func() time.Time { return time.Now().Add(d) }
	return &moved
}

// node issues credentials of a node.
func (ca *CA) node(t testing.TB, name string, kind Kind) *Credentials {
	t.Helper()
	csr, key, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := ca.IssueNode(csr, NodeRequest{Name: name, Kind: kind, Hosts: []string{"db1.example.org", "10.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := ParseCredentials(ca.CertificatePEM(), certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return credentials
}

func (ca *CA) token(t testing.TB, life time.Duration) *Token {
	t.Helper()
	token, err := NewToken(ca, TokenConfig{Addresses: []string{"10.0.0.1:7600", "db2.example.org:7600"}, Life: life})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// client issues an NBD client's certificate.
func (ca *CA) client(t testing.TB, name string) tls.Certificate {
	t.Helper()
	certificate, key, err := ca.IssueClient(name, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func must[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// meet has a client and a server shake hands over a real connection, exchange a
// byte, and returns what each of them got. In TLS 1.3 the client learns of the
// server's refusal only when it reads.
func meet(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	}()
	done := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- err
			return
		}
		secured := tls.Server(conn, server)
		if err = secured.Handshake(); err == nil {
			_, err = secured.Write([]byte{1})
		}
		// Closing at once would reset the connection and could overtake the
		// alert: the client closes first.
		if _, drainErr := io.Copy(io.Discard, conn); drainErr != nil {
			t.Log(drainErr)
		}
		if closeErr := conn.Close(); closeErr != nil {
			t.Error(closeErr)
		}
		done <- err
	}()
	conn := must[net.Conn](t)(net.Dial("tcp", listener.Addr().String()))
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	secured := tls.Client(conn, client)
	if clientErr = secured.Handshake(); clientErr == nil {
		_, clientErr = secured.Read(make([]byte, 1))
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	return <-done, clientErr
}

func TestNodesMeet(t *testing.T) {
	ca := newCA(t)
	a, b, w := ca.node(t, "a", KindData), ca.node(t, "b", KindData), ca.node(t, "w", KindWitness)
	config := must[*tls.Config](t)
	for _, c := range []struct {
		server, client *Credentials
		expected       string
	}{{a, b, "a"}, {b, a, "b"}, {a, w, "a"}, {w, a, "w"}, {a, b, ""}} {
		serverErr, clientErr := meet(t, config(ServerConfig(c.server)), config(ClientConfig(c.client, c.expected)))
		if serverErr != nil || clientErr != nil {
			t.Errorf("%s to %s: %v, %v", c.client.Identity(), c.server.Identity(), serverErr, clientErr)
		}
	}
}

// TestRefusals is about everybody who must not get through, and what both ends
// are told.
func TestRefusals(t *testing.T) {
	ours, theirs := newCA(t), newCA(t)
	config := must[*tls.Config](t)
	a, b := ours.node(t, "a", KindData), ours.node(t, "b", KindData)
	server := config(ServerConfig(a))
	trusting := func(certificates ...tls.Certificate) *tls.Config {
		return &tls.Config{Certificates: certificates, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
	}
	stale := ours.at(-nodeLife - time.Hour)
	oldTLS := trusting(b.certificate)
	oldTLS.MaxVersion = tls.VersionTLS12
	cases := []struct {
		name           string
		server, client *tls.Config
		clientIs       error
		clientSays     string
	}{
		{"no certificate", server, trusting(), ErrRefusedByPeer, "there is none"},
		{"stranger who trusts all", server, trusting(theirs.node(t, "a", KindData).certificate), ErrRefusedByPeer, "another cluster"},
		{"node of another cluster", server, config(ClientConfig(theirs.node(t, "b", KindData), "a")), ErrOtherCluster, ""},
		{"server of another cluster", config(ServerConfig(theirs.node(t, "a", KindData))), config(ClientConfig(b, "a")), ErrOtherCluster, ""},
		{"another node answers", server, config(ClientConfig(b, "c")), ErrOtherNode, `it is "a", not "c"`},
		{"expired node", server, trusting(stale.node(t, "b", KindData).certificate), ErrRefusedByPeer, "clocks"},
		{"expired server", config(ServerConfig(stale.node(t, "a", KindData))), config(ClientConfig(b, "a")), nil, "clocks"},
		{"NBD client on the cluster port", server, trusting(ours.client(t, "c")), ErrRefusedByPeer, "not meant for this"},
		{"node on the NBD port", config(NBDServerConfig(a)), trusting(b.certificate), ErrRefusedByPeer, "not meant for this"},
		{"join on the NBD port", config(NBDServerConfig(a)), trusting(ours.token(t, time.Hour).certificate), ErrRefusedByPeer, "not meant for this"},
		{"nobody on the NBD port", config(NBDServerConfig(a)), trusting(), ErrRefusedByPeer, "there is none"},
		{"expired token", server, JoinClientConfig(ours.at(-2*time.Hour).token(t, time.Hour)), ErrRefusedByPeer, "expired"},
		{"token of another cluster", server, JoinClientConfig(theirs.token(t, time.Hour)), ErrOtherCluster, "join token"},
		{"TLS 1.2 on the cluster port", server, oldTLS, nil, "protocol version"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			serverErr, clientErr := meet(t, c.server, c.client)
			if serverErr == nil {
				t.Error("the server lets it in")
			}
			wantError(t, Explain(clientErr), c.clientIs, c.clientSays)
		})
	}
}

// clientError meets and returns what the client says of it.
func clientError(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	served, err := meet(t, server, client)
	t.Log("server:", served)
	return err
}

// TestForgedServer has a stranger show our CA's certificate, which is no secret,
// behind a leaf of its own.
func TestForgedServer(t *testing.T) {
	ours, theirs := newCA(t), newCA(t)
	forged := theirs.node(t, "a", KindData)
	forged.certificate.Certificate[1] = ours.certificate.Raw
	server := must[*tls.Config](t)(ServerConfig(forged))
	server.ClientAuth = tls.RequestClientCert
	err := clientError(t, server, JoinClientConfig(ours.token(t, time.Hour)))
	wantError(t, Explain(err), ErrOtherCluster)
	err = clientError(t, server, must[*tls.Config](t)(ClientConfig(ours.node(t, "b", KindData), "a")))
	wantError(t, Explain(err), ErrOtherCluster)
}

// TestNotAServer has holders of other certificates of this cluster pose as a
// node.
func TestNotAServer(t *testing.T) {
	ca := newCA(t)
	for _, pretender := range []tls.Certificate{ca.client(t, "a"), ca.token(t, time.Hour).certificate} {
		pretender.Certificate = append(pretender.Certificate, ca.certificate.Raw)
		server := &tls.Config{Certificates: []tls.Certificate{pretender}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert}
		err := clientError(t, server, must[*tls.Config](t)(ClientConfig(ca.node(t, "b", KindData), "")))
		wantError(t, err, nil)
		err = clientError(t, server, JoinClientConfig(ca.token(t, time.Hour)))
		wantError(t, err, nil)
	}
}

func TestJoinAndNBDClientsGetIn(t *testing.T) {
	ca := newCA(t)
	a := ca.node(t, "a", KindData)
	config := must[*tls.Config](t)
	if serverErr, clientErr := meet(t, config(ServerConfig(a)), JoinClientConfig(ca.token(t, time.Hour))); serverErr != nil || clientErr != nil {
		t.Errorf("join: %v, %v", serverErr, clientErr)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, host := range []string{"a", "localhost", "127.0.0.1", "db1.example.org", "10.0.0.1"} {
			client := &tls.Config{Certificates: []tls.Certificate{ca.client(t, "c")}, RootCAs: a.roots, ServerName: host, MaxVersion: version}
			if serverErr, clientErr := meet(t, config(NBDServerConfig(a)), client); serverErr != nil || clientErr != nil {
				t.Errorf("NBD client to %s: %v, %v", host, serverErr, clientErr)
			}
		}
	}
}

func TestExplainNoTLS(t *testing.T) {
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	answered := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, err = conn.Write([]byte("DUET/1 REFUSED who are you\n"))
			answered <- errors.Join(err, conn.Close())
			return
		}
		answered <- err
	}()
	conn := must[net.Conn](t)(net.Dial("tcp", listener.Addr().String()))
	err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake()
	wantError(t, Explain(err), ErrNoTLS, "--insecure")
	if err := errors.Join(<-answered, conn.Close(), listener.Close()); err != nil {
		t.Error(err)
	}
	if Explain(nil) != nil || !errors.Is(Explain(io.EOF), io.EOF) {
		t.Error("what needs no explanation is changed")
	}
}

func TestConfigsWantNodes(t *testing.T) {
	ca := newCA(t)
	certificate, key, err := ca.IssueClient("c", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c := must[*Credentials](t)(ParseCredentials(ca.CertificatePEM(), certificate, key))
	for _, make := range []func() (*tls.Config, error){
		func() (*tls.Config, error) { return ServerConfig(c) },
		func() (*tls.Config, error) { return NBDServerConfig(c) },
		func() (*tls.Config, error) { return ClientConfig(c, "a") },
	} {
		_, err := make()
		wantError(t, err, nil, `"c" (duet-client)`)
	}
}

func TestCAIsKept(t *testing.T) {
	ca := newCA(t)
	key := must[[]byte](t)(ca.KeyPEM())
	again := must[*CA](t)(ParseCA(ca.CertificatePEM(), key))
	if again.Fingerprint() != ca.Fingerprint() || again.ClusterID() != "cluster-1" {
		t.Errorf("%s, %q", again.Fingerprint(), again.ClusterID())
	}
	config := must[*tls.Config](t)
	serverErr, clientErr := meet(t, config(ServerConfig(ca.node(t, "a", KindData))), config(ClientConfig(again.node(t, "b", KindData), "a")))
	if serverErr != nil || clientErr != nil {
		t.Errorf("%v, %v", serverErr, clientErr)
	}

	other := must[[]byte](t)(newCA(t).KeyPEM())
	_, err := ParseCA(ca.CertificatePEM(), other)
	wantError(t, err, nil, "does not belong to the CA certificate")
	_, err = ParseCA(key, key)
	wantError(t, err, nil, "CA certificate", `"CERTIFICATE"`)
	_, err = ParseCA(ca.CertificatePEM(), nil)
	wantError(t, err, nil, "CA key", `"PRIVATE KEY"`)
	_, err = ParseCA(append(ca.CertificatePEM(), ca.CertificatePEM()...), key)
	wantError(t, err, nil, "second PEM block")
	_, err = NewCA("")
	wantError(t, err, nil, "new CA")
}

func TestIssueNodeRefuses(t *testing.T) {
	ca := newCA(t)
	csr, _, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	largeKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request := func(key any) []byte {
		der := must[[]byte](t)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))
		return pem.EncodeToMemory(&pem.Block{Type: labelRequest, Bytes: der})
	}
	tampered, _ := pem.Decode(csr)
	tampered.Bytes[len(tampered.Bytes)-1] ^= 1
	good := NodeRequest{Name: "a", Kind: KindData}
	cases := []struct {
		name    string
		csr     []byte
		request NodeRequest
		want    string
	}{
		{"kind that is no node", csr, NodeRequest{Name: "a", Kind: KindClient}, "no kind of node"},
		{"no name", csr, NodeRequest{Kind: KindData}, "a name in a certificate"},
		{"name with a line break", csr, NodeRequest{Name: "a\nb", Kind: KindData}, "can't stand in a certificate"},
		{"bad host", csr, NodeRequest{Name: "a", Kind: KindData, Hosts: []string{"a b"}}, "neither an IP address"},
		{"too many hosts", csr, NodeRequest{Name: "a", Kind: KindData, Hosts: make([]string, 33)}, "33 hosts"},
		{"no request", nil, good, "PEM block"},
		{"signature of another", pem.EncodeToMemory(tampered), good, "certificate request"},
		{"RSA key", request(rsaKey), good, "not ECDSA P-256"},
		{"P-384 key", request(largeKey), good, "not ECDSA P-256"},
		{"huge", make([]byte, maxPEMBytes+1), good, "too long"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := ca.IssueNode(c.csr, c.request)
			wantError(t, err, nil, c.want)
		})
	}
	_, _, err = ca.IssueClient("c", 0)
	wantError(t, err, nil, "is none")
	_, _, err = ca.IssueClient("c", maxClientLife+1)
	wantError(t, err, nil, "longer than")
}

func TestParseCredentialsRefuses(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	csr, key, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	certificate := must[[]byte](t)(ca.IssueNode(csr, NodeRequest{Name: "a", Kind: KindData}))
	_, otherKey, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseCredentials(ca.CertificatePEM(), certificate, otherKey)
	wantError(t, err, nil, "key: it does not belong")
	_, err = ParseCredentials(other.CertificatePEM(), certificate, key)
	wantError(t, err, ErrOtherCluster)
	caKey := must[[]byte](t)(ca.KeyPEM())
	_, err = ParseCredentials(ca.CertificatePEM(), ca.CertificatePEM(), caKey)
	wantError(t, err, nil)
}
