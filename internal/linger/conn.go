package linger

import (
	"io"
	"net"
)

// Conn is a connection whose reads linger. It may be read by one goroutine at a time.
type Conn struct {
	net.Conn
	reader io.Reader
}

// NewConn makes reads of conn, a plain socket, linger.
func NewConn(conn net.Conn) *Conn { return &Conn{Conn: conn, reader: NewReader(conn)} }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) { return c.reader.Read(p) }

// NetConn returns the socket.
func (c *Conn) NetConn() net.Conn { return c.Conn }
