package mux

import (
	"crypto/tls"
	"net"

	"duet/internal/pki"
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
}

// NetConn returns the *net.TCPConn of a connection without TLS, on which vectored
// and non-blocking writes can be done directly. With TLS it returns a connection
// that is nothing but a net.Conn: there is no way down to the TCP connection, so
// that a fast path can't write around the encryption by mistake.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// PlainConn returns the TCP connection, and true, if there is no TLS that writes
// would have to go through.
func (c *Conn) PlainConn() (net.Conn, bool) {
	_, secured := c.Conn.(sealed)
	return c.Conn, !secured
}

// sealed hides all of a TLS connection but net.Conn, NetConn above all.
type sealed struct {
	net.Conn
}

// newConn wraps what came out of an introduction.
func newConn(transport net.Conn, channel Channel, identity pki.Identity) *Conn {
	if secured, ok := transport.(*tls.Conn); ok {
		transport = sealed{secured}
	}
	return &Conn{Conn: transport, Channel: channel, Node: identity.Name, Kind: identity.Kind}
}

// PeerOf returns who is at the other end of a connection from this package.
func PeerOf(conn net.Conn) (identity pki.Identity, ok bool) {
	c, ok := conn.(*Conn)
	if !ok {
		return pki.Identity{}, false
	}
	return pki.Identity{Name: c.Node, Kind: c.Kind}, true
}
