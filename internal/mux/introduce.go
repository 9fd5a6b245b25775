package mux

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"duet/internal/pki"
)

const (
	// lingerTimeout and lingerBytes bound how long and how much is read of a
	// connection that was refused. Closing with unread input would reset the
	// connection, and the reset can overtake the reason.
	lingerTimeout = time.Second
	lingerBytes   = 64 << 10
)

// answer does the accepting end's part of the introduction. It returns a
// connection and the listener that has a place reserved for it. On an error the
// connection is still to be closed.
func (m *Mux) answer(h *handshake) (*Conn, *channelListener, error) {
	if err := h.conn.SetDeadline(time.Now().Add(m.config.HandshakeTimeout)); err != nil {
		return nil, nil, err
	}
	transport, proven, err := m.secure(&transport{h.conn})
	if err != nil {
		return nil, nil, err
	}
	conn, listener, err := m.greet(transport, proven)
	if err != nil {
		return nil, nil, explainRefusal(err, transport)
	}
	if err := h.conn.SetDeadline(time.Time{}); err != nil {
		listener.giveBack()
		return nil, nil, err
	}
	return conn, listener, nil
}

// secure does the TLS handshake, if there is one, and returns who it proved the
// other end to be.
func (m *Mux) secure(conn net.Conn) (net.Conn, *pki.Identity, error) {
	if m.tls == nil {
		return conn, nil, nil
	}
	secured := tls.Server(conn, m.tls)
	// The deadline of the connection bounds this, and closing it ends it.
	if err := secured.Handshake(); err != nil {
		return nil, nil, m.explainHandshake(conn, err)
	}
	identity, err := pki.PeerIdentity(secured.ConnectionState())
	if err != nil {
		return nil, nil, err
	}
	return secured, &identity, nil
}

// errWantsTLS is told to a node that was set up without TLS, in plaintext since
// it would not understand anything else.
var errWantsTLS = errors.New("this node speaks TLS only; the other runs with --insecure")

// explainHandshake puts a failed handshake into words, and tells the other end
// if it began with our own first line.
func (m *Mux) explainHandshake(conn net.Conn, err error) error {
	var header tls.RecordHeaderError
	if errors.As(err, &header) && string(header.RecordHeader[:]) == versionPrefix {
		return explainRefusal(refused{errWantsTLS}, conn)
	}
	return pki.Explain(err)
}

// refused is an error that the other end is told.
type refused struct {
	reason error
}

func (r refused) Error() string { return r.reason.Error() }
func (r refused) Unwrap() error { return r.reason }

// greet reads the preface, decides and says OK. The listener it returns has a
// place reserved for the connection.
func (m *Mux) greet(transport net.Conn, proven *pki.Identity) (*Conn, *channelListener, error) {
	line, err := readLine(transport)
	if errors.Is(err, ErrNotDuet) {
		return nil, nil, refused{err}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("first line: %w", err)
	}
	p, err := parsePreface(line)
	if err != nil {
		return nil, nil, refused{err}
	}
	identity, err := identify(p, proven)
	if err == nil {
		err = permit(p.channel, identity)
	}
	if err == nil && p.channel != ChannelJoin && p.recovery != m.config.Recovery {
		err = fmt.Errorf("%s: %w", identity, &OtherRecovery{Mine: m.config.Recovery, Theirs: p.recovery})
	}
	if err != nil {
		return nil, nil, refused{err}
	}
	listener, err := m.reserve(p.channel)
	if err != nil {
		return nil, nil, refused{fmt.Errorf("channel %s: %w", p.channel, err)}
	}
	if _, err := io.WriteString(transport, acceptance(m.config.Node)); err != nil {
		listener.giveBack()
		return nil, nil, fmt.Errorf("answer: %w", err)
	}
	return newConn(transport, p.channel, identity), listener, nil
}

func (m *Mux) reserve(channel Channel) (*channelListener, error) {
	m.mu.Lock()
	listener := m.listeners[channel]
	m.mu.Unlock()
	if listener == nil {
		return nil, errNotServed
	}
	return listener, listener.reserve()
}

// explainRefusal tells the other end why, if that is for it to know.
func explainRefusal(err error, transport net.Conn) error {
	var reason refused
	if !errors.As(err, &reason) {
		return err
	}
	answer := refusal(reason.Error())
	if other := (*OtherRecovery)(nil); errors.As(err, &other) {
		answer = recoveredRefusal(other.Mine)
	}
	if _, writeErr := io.WriteString(transport, answer); writeErr != nil {
		return fmt.Errorf("%w (and could not say so: %w)", err, writeErr)
	}
	return err
}

// linger lets the other end read what it was told: it ends our direction, then
// waits, within bounds, for the other end to hang up. All errors mean the same
// here, that the connection is gone.
func linger(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok || tcp.CloseWrite() != nil || tcp.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, tcp, lingerBytes); err != nil {
		return
	}
}
