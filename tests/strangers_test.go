package tests

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"duet/tests/cluster"
)

// strangerTimeout bounds how long a daemon may keep a connection on which nothing sensible comes.
const strangerTimeout = 30 * time.Second

// Whoever connects to a node's ports without being a member gets nowhere, and the daemon goes on serving.
func TestStrangers(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	a := s.Node("a")
	r := newRecorder(0, 4096)
	l := r.begin(t, a.URI("r0"))

	noise := make([]byte, 1<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		address string
		say     func(net.Conn) error
	}{
		{"noise on the cluster's port", a.Address, write(noise)},
		{"HTTP on the cluster's port", a.Address, write([]byte("GET / HTTP/1.1\r\nHost: duet\r\n\r\n"))},
		{"TLS without a certificate", a.Address, tlsWithoutCertificate},
		{"silence on the cluster's port", a.Address, write(nil)},
		{"noise on the NBD port", a.NBD, write(noise)},
		{"a huge option on the NBD port", a.NBD, write([]byte("\x00\x00\x00\x01IHAVEOPT\x00\x00\x00\x07\xff\xff\xff\xff"))},
	}
	t.Run("all at once", func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				if err := isRefused(t.Context(), tt.address, tt.say); err != nil {
					t.Error(err)
				}
			})
		}
	})
	l.waitWrites(t, 100)
	if err := l.end(); err != nil {
		t.Error(err)
	}
	s.inSync("r0")
}

// A peer that speaks another version is told so in a line of text, on both ends.
func TestAnotherVersion(t *testing.T) {
	s := start(t, plaintext, dataNodes(1), func(c *cluster.Config) { c.Witness = false })
	a := s.Node("a")
	connection, err := net.Dial("tcp", a.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := connection.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := connection.SetDeadline(time.Now().Add(strangerTimeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(connection, "DUET/9 peer b\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil && line == "" {
		t.Fatalf("no answer: %v", err)
	}
	t.Logf("says: %s", line)
	if !strings.Contains(line, "DUET/1") {
		t.Errorf("%q does not say which version it speaks", line)
	}
	s.within(settleTimeout, func(ctx context.Context) error {
		return cluster.WaitFor(ctx, "a line in the log", func() error {
			log, err := a.Log()
			if err == nil && !strings.Contains(log, "DUET/9") {
				err = fmt.Errorf("DUET/9 is not mentioned")
			}
			return err
		})
	})
}

// isRefused connects, talks and waits until the other end closes. More than a few kilobytes of answer are no refusal.
func isRefused(ctx context.Context, address string, say func(net.Conn) error) (err error) {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, connection.Close()) }()
	if err := connection.SetDeadline(time.Now().Add(strangerTimeout)); err != nil {
		return err
	}
	if err := say(connection); err != nil && !isClosed(err) {
		return err
	}
	answer, readErr := io.ReadAll(io.LimitReader(connection, 64<<10))
	if readErr != nil && !isClosed(readErr) {
		return fmt.Errorf("still open after %v: %w", strangerTimeout, readErr)
	}
	if len(answer) > 16<<10 {
		return fmt.Errorf("got %d bytes of answer", len(answer))
	}
	return nil
}

// isClosed is whether err comes from the other end's closing of the connection.
func isClosed(err error) bool {
	var network net.Error
	return !errors.As(err, &network) || !network.Timeout()
}

func write(p []byte) func(net.Conn) error {
	return func(c net.Conn) error {
		_, err := c.Write(p)
		return err
	}
}

// tlsWithoutCertificate does not mind who the server is: the question is whether the server minds.
func tlsWithoutCertificate(c net.Conn) error {
	client := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err := client.Handshake(); err != nil {
		return err
	}
	if _, err := io.WriteString(client, "DUET/1 raft\n"); err != nil {
		return err
	}
	n, err := client.Read(make([]byte, 100))
	if n > 0 {
		return fmt.Errorf("the server answered a client without a certificate")
	}
	return err
}
