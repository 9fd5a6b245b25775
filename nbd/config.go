package nbd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// The defaults of a Config.
const (
	DefaultMaxConnections     = 128
	DefaultReservedBytes      = 2 << 20
	DefaultConnectionBytes    = 64 << 20
	DefaultSharedBytes        = 128 << 20
	DefaultNegotiationTimeout = 30 * time.Second
	DefaultStallTimeout       = 30 * time.Second
	DefaultPressureTimeout    = 2 * time.Second
)

// Config is what a Server needs to know besides its exports. The zero value serves in plaintext with the defaults.
type Config struct {
	// TLS lets clients upgrade with STARTTLS. Without it the server has no TLS.
	TLS *tls.Config
	// TLSRequired refuses every option but STARTTLS and ABORT before the upgrade.
	TLSRequired bool
	// TLSExemptLocal makes TLS optional for clients on unix sockets and loopback addresses even if it is required.
	TLSExemptLocal bool

	// MaxConnections bounds the open connections. When it is reached, the oldest one that is still negotiating makes
	// room for a new one; if there is none, the new one is closed.
	MaxConnections int
	// ReservedBytes is the memory for requests in flight that each connection has to itself.
	ReservedBytes int64
	// ConnectionBytes is what one connection may take from the shared reserve, at most.
	ConnectionBytes int64
	// SharedBytes is the reserve for what connections need beyond their own share.
	SharedBytes int64

	// NegotiationTimeout bounds the time from accepting a connection to the end of its negotiation.
	NegotiationTimeout time.Duration
	// StallTimeout ends a connection whose client neither takes its replies nor sends the payload it announced.
	StallTimeout time.Duration
	// PressureTimeout takes the place of StallTimeout for a connection that holds shared memory which others wait for.
	PressureTimeout time.Duration

	// Logger is told of connections that begin, end and fail. Nil discards.
	Logger *slog.Logger
}

// withDefaults fills what was left zero.
func (c Config) withDefaults() Config {
	c.MaxConnections = orDefault(c.MaxConnections, DefaultMaxConnections)
	c.ReservedBytes = orDefault(c.ReservedBytes, DefaultReservedBytes)
	c.ConnectionBytes = orDefault(c.ConnectionBytes, DefaultConnectionBytes)
	c.SharedBytes = orDefault(c.SharedBytes, DefaultSharedBytes)
	c.NegotiationTimeout = orDefault(c.NegotiationTimeout, DefaultNegotiationTimeout)
	c.StallTimeout = orDefault(c.StallTimeout, DefaultStallTimeout)
	c.PressureTimeout = orDefault(c.PressureTimeout, min(DefaultPressureTimeout, c.StallTimeout))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func orDefault[T int | int64 | time.Duration](value, fallback T) T {
	if value == 0 {
		return fallback
	}
	return value
}

// validate checks a config that has its defaults.
func (c Config) validate() error {
	switch {
	case c.TLSRequired && c.TLS == nil:
		return errors.New("nbd: TLS is required but there is no TLS configuration")
	case c.TLS != nil && c.TLS.MinVersion != 0 && c.TLS.MinVersion < tls.VersionTLS12:
		return errors.New("nbd: the protocol asks for TLS 1.2 or newer")
	case c.MaxConnections < 1:
		return fmt.Errorf("nbd: MaxConnections is %d", c.MaxConnections)
	case c.ReservedBytes < minChargeBytes:
		return fmt.Errorf("nbd: ReservedBytes is %d, need at least %d", c.ReservedBytes, minChargeBytes)
	case c.ConnectionBytes < maxBufferBytes || c.SharedBytes < maxBufferBytes:
		return fmt.Errorf("nbd: ConnectionBytes and SharedBytes must hold one request of %d bytes", maxBufferBytes)
	case c.NegotiationTimeout < 0 || c.StallTimeout < 0 || c.PressureTimeout < 0:
		return errors.New("nbd: negative timeout")
	}
	return nil
}

// tlsConfig returns the server's own copy of the TLS settings. The sizes of records are not adapted to slow starts,
// because that costs throughput and helps only what renders while it loads.
func (c Config) tlsConfig() *tls.Config {
	if c.TLS == nil {
		return nil
	}
	settings := c.TLS.Clone()
	settings.DynamicRecordSizingDisabled = true
	settings.MinVersion = max(settings.MinVersion, tls.VersionTLS12)
	return settings
}
