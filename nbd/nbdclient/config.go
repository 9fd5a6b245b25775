package nbdclient

import (
	"crypto/tls"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// The defaults of a Config.
const (
	DefaultMaxInFlight      = 128
	DefaultHandshakeTimeout = 10 * time.Second
)

// Config says what to connect to and how.
type Config struct {
	// Export is the name to ask for; empty means the server's default export.
	Export string
	// TLS, if set, is insisted on: a server that does not upgrade is not used.
	TLS *tls.Config
	// Simple leaves structured replies out, as the Linux kernel does.
	Simple bool
	// MaxInFlight bounds the requests in flight; starting more waits.
	MaxInFlight int
	// HandshakeTimeout bounds the negotiation, in addition to the context it runs under.
	HandshakeTimeout time.Duration
}

func (c Config) withDefaults() (Config, error) {
	if c.MaxInFlight == 0 {
		c.MaxInFlight = DefaultMaxInFlight
	}
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if c.MaxInFlight < 0 || c.HandshakeTimeout < 0 {
		return c, fmt.Errorf("nbdclient: MaxInFlight %d, HandshakeTimeout %v", c.MaxInFlight, c.HandshakeTimeout)
	}
	return c, nil
}

var (
	// ErrLost is in the chain of every error that is due to the connection and not to the request. Whether the request
	// was carried out is unknown.
	ErrLost = errors.New("connection to the NBD server lost")
	// ErrClosed is the cause when the connection was closed by Close.
	ErrClosed = errors.New("closed")
)

// RefusedError is the server's answer to the wish for an export.
type RefusedError struct {
	Option  string
	Reply   string
	Message string
}

// Error returns the server's words.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("NBD server refused %s: %s: %s", e.Option, e.Reply, e.Message)
}

// RequestError is the server's answer to a request that failed. The connection goes on.
type RequestError struct {
	Op      Op
	Errno   syscall.Errno
	Message string // empty without structured replies
}

// Error names the request and the reason.
func (e *RequestError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("NBD %v: %v", e.Op, e.Errno)
	}
	return fmt.Sprintf("NBD %v: %v: %s", e.Op, e.Errno, e.Message)
}

// Unwrap returns the error number.
func (e *RequestError) Unwrap() error { return e.Errno }
