package mux

import (
	"crypto/tls"
	"net"

	"duet/internal/pki"
	"duet/internal/socket"
)

// Conn is a connection whose introduction is done: channel and other end are
// known, and no deadline is set.
type Conn struct {
	net.Conn
	// Channel is what the connection is for.
	Channel Channel
	// Node is the other end's name: of a node, or on ChannelJoin, seen from
	// the accepting end, the id of a token.
	Node string
	// Kind is what the other end is. Without TLS every node claims to be a
	// data node.
	Kind pki.Kind

	base *transport
}

// transport is the socket of a connection, below TLS. It is replaced at most
// once, before the connection is used.
type transport struct {
	net.Conn
}

// TakeOut takes the connection out of the runtime's poller: see package socket.
// It is for connections that are always busy or few, and must be called before
// anything else is done with the connection.
func (c *Conn) TakeOut() error {
	direct, err := socket.New(c.base.Conn)
	if err != nil {
		return err
	}
	c.base.Conn = direct
	return nil
}

// ExpectSoon says whether what the next reads are for arrives within microseconds; see package socket. With TLS it does
// nothing: what is sent there waits for a goroutine of its own, which a reader that looks busily would keep waiting.
func (c *Conn) ExpectSoon(soon bool) {
	if plain, ok := c.PlainConn(); ok {
		if direct, ok := plain.(*socket.Conn); ok {
			direct.ExpectSoon(soon)
		}
	}
}

// ReadAmple is Read for who expects that p can be filled; see package socket.
func (c *Conn) ReadAmple(p []byte) (int, error) {
	if plain, ok := c.PlainConn(); ok {
		if direct, ok := plain.(*socket.Conn); ok {
			return direct.ReadAmple(p)
		}
	}
	return c.Read(p)
}

// NetConn returns the *net.TCPConn of a connection without TLS, on which vectored
// and non-blocking writes can be done directly. With TLS it returns a connection
// that is nothing but a net.Conn: there is no way down to the TCP connection, so
// that a fast path can't write around the encryption by mistake.
func (c *Conn) NetConn() net.Conn {
	if plain, ok := c.PlainConn(); ok {
		return plain
	}
	return c.Conn
}

// PlainConn returns the TCP connection, and true, if there is no TLS that writes
// would have to go through. Else it returns nil, so that the socket under TLS
// can't be used by who overlooks the answer.
func (c *Conn) PlainConn() (net.Conn, bool) {
	if _, secured := c.Conn.(sealed); secured {
		return nil, false
	}
	return c.base.Conn, true
}

// sealed hides all of a TLS connection but net.Conn, NetConn above all.
type sealed struct {
	net.Conn
}

// newConn wraps what came out of an introduction.
func newConn(conn net.Conn, channel Channel, identity pki.Identity) *Conn {
	c := &Conn{Conn: conn, Channel: channel, Node: identity.Name, Kind: identity.Kind}
	if secured, ok := conn.(*tls.Conn); ok {
		c.Conn, conn = sealed{secured}, secured.NetConn()
	}
	if base, ok := conn.(*transport); ok {
		c.base = base
	} else {
		c.base = &transport{conn}
	}
	return c
}

// PeerOf returns who is at the other end of a connection from this package.
func PeerOf(conn net.Conn) (identity pki.Identity, ok bool) {
	c, ok := conn.(*Conn)
	if !ok {
		return pki.Identity{}, false
	}
	return pki.Identity{Name: c.Node, Kind: c.Kind}, true
}
