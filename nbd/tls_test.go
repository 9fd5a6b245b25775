package nbd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"duet/nbd/internal/wire"
	"duet/nbd/nbdclient"
	"duet/nbd/nbdtest"
)

// certificates are a CA, a server and a client that trust each other, and their files under the names that libnbd and
// qemu look for.
type certificates struct {
	server, client *tls.Config
	dir            string
}

func newCertificates(t testing.TB) certificates {
	t.Helper()
	dir := t.TempDir()
	caKey, ca := newCertificate(t, dir, "ca", nil, nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	load := func(name string) tls.Certificate {
		newCertificate(t, dir, name, ca, caKey)
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+"-cert.pem"), filepath.Join(dir, name+"-key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	return certificates{
		server: &tls.Config{
			Certificates: []tls.Certificate{load("server")}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		},
		client: &tls.Config{Certificates: []tls.Certificate{load("client")}, RootCAs: pool, ServerName: "localhost"},
		dir:    dir,
	}
}

// newCertificate makes NAME-cert.pem and NAME-key.pem, signed by parent or by itself.
func newCertificate(t testing.TB, dir, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(name))),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), // synctest's clock begins in 2000
		NotAfter:     time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, parentKey = template, key
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage |= x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, name+"-cert.pem"), "CERTIFICATE", der)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, name+"-key.pem"), "PRIVATE KEY", keyDER)
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, certificate
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTLSModes(t *testing.T) {
	certs := newCertificates(t)
	for _, c := range []struct {
		name             string
		cfg              Config
		plainOK, securOK bool
	}{
		{name: "none", plainOK: true},
		{name: "selective", cfg: Config{TLS: certs.server}, plainOK: true, securOK: true},
		{name: "required", cfg: Config{TLS: certs.server, TLSRequired: true}, securOK: true},
		{name: "required but not of local clients", cfg: Config{TLS: certs.server, TLSRequired: true, TLSExemptLocal: true},
			plainOK: true, securOK: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, c.cfg)
			address := listen(t, s, "tcp")
			for _, settings := range []*tls.Config{nil, certs.client} {
				want := c.plainOK
				if settings != nil {
					want = c.securOK
				}
				client, err := nbdclient.Dial(t.Context(), "tcp", address, nbdclient.Config{TLS: settings})
				if (err == nil) != want {
					t.Fatalf("with TLS %v: %v", settings != nil, err)
				}
				if err != nil {
					continue
				}
				writeAndRead(t, client)
				if err := client.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// writeAndRead checks that a client works, with payloads on both sides of every threshold.
func writeAndRead(t testing.TB, client *nbdclient.Client) {
	t.Helper()
	for _, n := range []int{1, 512, 4096, copyBytes - 1, copyBytes, largeBytes, 512 << 10} {
		want := bytes.Repeat([]byte{byte(n>>3) | 1}, n)
		if err := client.Write(t.Context(), want, 77); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, n)
		if err := client.Read(t.Context(), got, 77); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%d bytes differ from what was written", n)
		}
	}
}

func TestTLSRefusesClientWithoutCertificate(t *testing.T) {
	certs := newCertificates(t)
	s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, Config{TLS: certs.server, TLSRequired: true})
	settings := certs.client.Clone()
	settings.Certificates = nil
	if c, err := nbdclient.Dial(t.Context(), "tcp", listen(t, s, "tcp"), nbdclient.Config{TLS: settings}); err == nil {
		t.Fatal("was let in", c.Close())
	}
}

// What an attacker puts behind STARTTLS in plaintext must not be taken for something said inside TLS.
func TestTLSRefusesInjectedPlaintext(t *testing.T) {
	certs := newCertificates(t)
	s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, Config{TLS: certs.server})
	conn, err := net.Dial("tcp", listen(t, s, "tcp"))
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, conn)
	injected := append(option(wire.OptStartTLS), option(wire.OptStructuredReply)...)
	if _, err := conn.Write(append([]byte{0, 0, 0, 3}, injected...)); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, wire.GreetingBytes+1)
	if n, err := readUntilClosed(conn, reply); n != wire.GreetingBytes {
		t.Fatalf("server said %x (%v) instead of closing", reply[:n], err)
	}
}

// readUntilClosed reads until p is full or the server closes.
func readUntilClosed(conn net.Conn, p []byte) (n int, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
		return 0, err
	}
	for n < len(p) && err == nil {
		var got int
		got, err = conn.Read(p[n:])
		n += got
	}
	return n, err
}

// STARTTLS forgets what was agreed on before it, because it may have been agreed on with somebody else.
func TestTLSForgetsWhatWasSaidBefore(t *testing.T) {
	certs := newCertificates(t)
	s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, Config{TLS: certs.server})
	conn, err := net.Dial("tcp", listen(t, s, "tcp"))
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, conn)
	say := func(w net.Conn, p []byte, replyBytes int) []byte {
		t.Helper()
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
		reply := make([]byte, replyBytes)
		if n, err := readUntilClosed(w, reply); n != replyBytes {
			t.Fatalf("%d of %d bytes: %v", n, replyBytes, err)
		}
		return reply
	}
	say(conn, []byte{0, 0, 0, 3}, wire.GreetingBytes)
	say(conn, option(wire.OptStructuredReply), wire.OptionReplyHeaderBytes)
	say(conn, option(wire.OptStartTLS), wire.OptionReplyHeaderBytes)
	secure := tls.Client(conn, certs.client)
	// A second STARTTLS is invalid; contexts need structured replies, which are forgotten.
	for _, o := range [][]byte{option(wire.OptStartTLS), option(wire.OptSetMetaContext, metaData("r0", wire.BaseAllocation)...)} {
		header, err := wire.DecodeOptionReplyHeader(say(secure, o, wire.OptionReplyHeaderBytes))
		if err != nil || header.Type != wire.RepErrInvalid {
			t.Fatalf("%x: got %v, %v", o, header.Type, err)
		}
		if n, err := readUntilClosed(secure, make([]byte, header.Length)); n != int(header.Length) {
			t.Fatal(err)
		}
	}
}

func TestConfigIsValidated(t *testing.T) {
	for name, cfg := range map[string]Config{
		"TLS required without settings": {TLSRequired: true},
		"TLS too old":                   {TLS: &tls.Config{MinVersion: tls.VersionTLS11}},
		"no connections":                {MaxConnections: -1},
		"no reserved memory":            {ReservedBytes: 1},
		"shared memory too small":       {SharedBytes: 1 << 20},
		"negative timeout":              {StallTimeout: -1},
	} {
		s, err := Start(directory{}, cfg)
		if err == nil {
			t.Errorf("%s: accepted, %v", name, s.Close(context.Background()))
		} else if !strings.HasPrefix(err.Error(), "nbd: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A client is told in words why it can't have an export.
func TestRefusalReachesClient(t *testing.T) {
	s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, Config{})
	_, err := nbdclient.Dial(t.Context(), "unix", listen(t, s, "unix"), nbdclient.Config{Export: "secondary"})
	var refused *nbdclient.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Message, "Primary is node b") {
		t.Fatal(err)
	}
}
