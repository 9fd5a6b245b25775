package mux

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"duet/internal/pki"
)

// Dialer connects to other nodes' channels. It has no state: a new connection is
// made, and introduced, for each call.
type Dialer struct {
	node    string // what is claimed without TLS
	timeout time.Duration
	// secure returns the TLS configuration for a node; nil without TLS.
	secure func(node string) (*tls.Config, error)
	joins  bool // may use ChannelJoin, and only that
	// recovery is how often the quorum of this node's cluster was rebuilt.
	recovery uint64
}

// AtRecovery makes the dialer say how often the quorum of this node's cluster was rebuilt.
func (d *Dialer) AtRecovery(number uint64) *Dialer {
	d.recovery = number
	return d
}

// NewDialer returns the Dialer of a node. Credentials are nil exactly if TLS is
// off. Timeout bounds a call of Dial whose context has no earlier end; 0 means
// the default.
func NewDialer(node string, credentials *pki.Credentials, timeout time.Duration) (*Dialer, error) {
	if !isName(node) || timeout < 0 {
		return nil, fmt.Errorf("dialer: node name %q or time-out %s is not valid", node, timeout)
	}
	d := &Dialer{node: node, timeout: orDefault(timeout)}
	if credentials == nil {
		return d, nil
	}
	if identity := credentials.Identity(); identity.Name != node {
		return nil, fmt.Errorf("dialer: the credentials are those of %s, not of %q", identity, node)
	}
	d.secure = func(expected string) (*tls.Config, error) { return pki.ClientConfig(credentials, expected) }
	return d, nil
}

// NewJoinDialer returns the Dialer of one who holds a token: it can dial
// ChannelJoin.
func NewJoinDialer(token *pki.Token, timeout time.Duration) (*Dialer, error) {
	if !isName(token.ID) || timeout < 0 {
		return nil, fmt.Errorf("dialer: token id %q or time-out %s is not valid", token.ID, timeout)
	}
	d := &Dialer{node: token.ID, timeout: orDefault(timeout), joins: true}
	if !token.Insecure {
		d.secure = func(string) (*tls.Config, error) { return pki.JoinClientConfig(token), nil }
	}
	return d, nil
}

func orDefault(timeout time.Duration) time.Duration {
	if timeout == 0 {
		return defaultHandshakeTimeout
	}
	return timeout
}

// Dial connects to a channel of the node at address. The node that answers must
// be the one named; "" accepts any, for first contact by address alone. On return
// the other end has taken the connection, no deadline is set, and ctx has no more
// influence on it.
func (d *Dialer) Dial(ctx context.Context, address, node string, channel Channel) (*Conn, error) {
	conn, err := d.dial(ctx, address, node, channel)
	if err != nil {
		return nil, fmt.Errorf("connect to %s (%s, %s): %w", nodeOrAny(node), address, channel, err)
	}
	return conn, nil
}

func nodeOrAny(node string) string {
	if node == "" {
		return "a node"
	}
	return node
}

func (d *Dialer) dial(ctx context.Context, address, node string, channel Channel) (*Conn, error) {
	if !channel.known() || d.joins != (channel == ChannelJoin) {
		return nil, fmt.Errorf("this dialer can't use channel %q", channel)
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	dialer := net.Dialer{}
	if d.secure == nil {
		dialer.ControlContext = onlyLoopback
	}
	transport, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn, err := d.introduceWithin(ctx, transport, node, channel)
	if err != nil {
		return nil, errors.Join(err, transport.Close())
	}
	return conn, nil
}

// onlyLoopback is asked with the address that a name was resolved to, before
// anything is sent there.
func onlyLoopback(_ context.Context, _, address string, _ syscall.RawConn) error {
	if ip, err := netip.ParseAddrPort(address); err != nil || !ip.Addr().Unmap().IsLoopback() {
		return fmt.Errorf("%w, not %s", ErrInsecure, address)
	}
	return nil
}

// introduceWithin makes reads and writes of the introduction end with ctx.
func (d *Dialer) introduceWithin(ctx context.Context, transport net.Conn, node string, channel Channel) (*Conn, error) {
	var deadlineErr error
	broken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		deadlineErr = transport.SetDeadline(time.Unix(1, 0)) // in the past: all ends at once
		close(broken)
	})
	conn, err := d.introduce(transport, node, channel)
	if !stop() {
		<-broken
		return nil, errors.Join(ctx.Err(), deadlineErr)
	}
	return conn, err
}

// introduce does the dialing end's part.
func (d *Dialer) introduce(conn net.Conn, node string, channel Channel) (*Conn, error) {
	conn = &transport{conn}
	p := preface{channel: channel, recovery: d.recovery}
	var proven *pki.Identity
	if d.secure == nil {
		p.node = d.node
	} else {
		secured, identity, err := d.handshake(conn, node)
		if err != nil {
			return nil, err
		}
		conn, proven = secured, &identity
	}
	if _, err := io.WriteString(conn, p.line()); err != nil {
		return nil, pki.Explain(err)
	}
	line, err := readLine(conn)
	if err != nil {
		return nil, pki.Explain(err)
	}
	answered, err := parseAnswer(line)
	if other := (*OtherRecovery)(nil); errors.As(err, &other) {
		other.Mine = d.recovery
	}
	if err != nil {
		return nil, err
	}
	identity, err := whoAnswered(answered, node, proven)
	if err != nil {
		return nil, err
	}
	return newConn(conn, channel, identity), nil
}

func (d *Dialer) handshake(transport net.Conn, node string) (net.Conn, pki.Identity, error) {
	config, err := d.secure(node)
	if err != nil {
		return nil, pki.Identity{}, err
	}
	secured := tls.Client(transport, config)
	// Bounded by the deadline that the context sets.
	if err := secured.Handshake(); err != nil {
		return nil, pki.Identity{}, pki.Explain(err)
	}
	identity, err := pki.PeerIdentity(secured.ConnectionState())
	return secured, identity, err
}

// whoAnswered compares the name in the answer with the one meant and the one
// proven. With TLS the handshake has compared those two already.
func whoAnswered(answered, node string, proven *pki.Identity) (pki.Identity, error) {
	if proven != nil {
		if answered != proven.Name {
			return pki.Identity{}, fmt.Errorf("%w: it says it is %q, its certificate is that of %s", ErrNotDuet, answered, proven)
		}
		return *proven, nil
	}
	if node != "" && answered != node {
		return pki.Identity{}, fmt.Errorf("%w: it is %q, not %q", ErrOtherNode, answered, node)
	}
	return pki.Identity{Name: answered, Kind: pki.KindData}, nil
}
