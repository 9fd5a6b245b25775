package mux

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"duet/internal/pki"
)

const (
	// defaultHandshakeTimeout is ample for a round trip around the earth and
	// a slow machine, and short enough for a stalled stranger.
	defaultHandshakeTimeout = 5 * time.Second
	// defaultMaxHandshakes is several times what a large cluster needs when
	// all its nodes connect at once.
	defaultMaxHandshakes = 128
	// defaultBacklog is what may wait on one channel for a busy acceptor.
	defaultBacklog = 64

	// firstAcceptPause and maxAcceptPause are how long accepting rests when
	// it fails, for lack of descriptors above all.
	firstAcceptPause = 5 * time.Millisecond
	maxAcceptPause   = time.Second
)

// Config is what a Mux needs. Node, Address and, unless Insecure, Credentials are
// required; the rest has defaults.
type Config struct {
	Node        string // this node's name
	Address     string // HOST:PORT to listen on
	Credentials *pki.Credentials
	Insecure    bool // no TLS; loopback addresses only
	// Recovery is how often the quorum of the cluster was rebuilt; nodes of another number are refused on every channel but ChannelJoin.
	Recovery uint64

	HandshakeTimeout time.Duration // bound of one introduction
	MaxHandshakes    int           // introductions under way
	Backlog          int           // introduced connections that wait, per channel

	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = defaultHandshakeTimeout
	}
	if c.MaxHandshakes == 0 {
		c.MaxHandshakes = defaultMaxHandshakes
	}
	if c.Backlog == 0 {
		c.Backlog = defaultBacklog
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	switch {
	case !isName(c.Node):
		return fmt.Errorf("node name %q is not valid", c.Node)
	case c.Insecure && c.Credentials != nil:
		return errors.New("credentials are given, and TLS is off")
	case !c.Insecure && c.Credentials == nil:
		return errors.New("credentials are missing")
	case c.HandshakeTimeout < 0 || c.MaxHandshakes < 1 || c.Backlog < 1:
		return errors.New("a bound is negative")
	}
	return nil
}

// Mux is the listening end of the port.
type Mux struct {
	config   Config
	tls      *tls.Config // nil when insecure
	listener net.Listener
	log      *strangerLog

	slots   chan struct{} // one for each goroutine that has a handshake
	closing chan struct{}
	loops   sync.WaitGroup // the accepting goroutine and the handshakes

	mu        sync.Mutex
	pending   pending
	listeners map[Channel]*channelListener
	closed    bool
}

// Listen opens the port and begins to admit connections. Those for a channel
// that nobody listens on yet are refused; the dialer tries again.
func Listen(ctx context.Context, config Config) (*Mux, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", config.Address, err)
	}
	m := &Mux{
		config:    config,
		log:       newStrangerLog(config.Logger),
		slots:     make(chan struct{}, config.MaxHandshakes),
		closing:   make(chan struct{}),
		pending:   pending{limit: config.MaxHandshakes},
		listeners: make(map[Channel]*channelListener),
	}
	if err := m.open(ctx); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", config.Address, err)
	}
	m.loops.Go(m.accept)
	return m, nil
}

func (m *Mux) open(ctx context.Context) (err error) {
	if m.config.Insecure {
		err = checkLoopback(ctx, m.config.Address)
	} else {
		m.tls, err = pki.ServerConfig(m.config.Credentials)
	}
	if err != nil {
		return err
	}
	var listen net.ListenConfig
	m.listener, err = listen.Listen(ctx, "tcp", m.config.Address)
	return err
}

// checkLoopback refuses an address unless all it stands for is of this machine
// alone.
func checkLoopback(ctx context.Context, address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if host == "" {
		return fmt.Errorf("%w, not %q", ErrInsecure, address)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	for _, ip := range ips {
		if !ip.Unmap().IsLoopback() {
			return fmt.Errorf("%w, not %q", ErrInsecure, address)
		}
	}
	return nil
}

// Addr returns the address that is listened on.
func (m *Mux) Addr() net.Addr { return m.listener.Addr() }

// Channel begins to serve a channel: connections for it come out of the listener
// as *Conn. A channel has one listener at a time; when that is closed, the
// channel is refused again, and Channel may be called anew.
func (m *Mux) Channel(channel Channel) (net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("channel %s: %w", channel, net.ErrClosed)
	}
	if !channel.known() {
		return nil, fmt.Errorf("channel %q: %w: it is unknown", channel, ErrChannel)
	}
	if old := m.listeners[channel]; old != nil && !old.isClosed() {
		return nil, fmt.Errorf("channel %s: %w: it has a listener", channel, ErrChannel)
	}
	l := newChannelListener(channel, m.listener.Addr(), m.config.Backlog)
	m.listeners[channel] = l
	return l, nil
}

// Close stops listening, breaks off introductions, closes the channels'
// listeners and what waits in them, and returns when no goroutine of the Mux is
// left. Further calls do nothing.
func (m *Mux) Close() error {
	errs := m.shut()
	m.loops.Wait()
	return errors.Join(errs...)
}

func (m *Mux) shut() (errs []error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	close(m.closing)
	errs = append(errs, m.listener.Close())
	for _, h := range m.pending.all {
		errs = append(errs, ignoreClosed(h.conn.Close()))
	}
	for _, l := range m.listeners {
		errs = append(errs, l.Close())
	}
	return errs
}

// ignoreClosed is for connections that two parties may close.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// accept is the accepting goroutine. It owns the listening socket, is woken by
// connections, and ends when Close closes the socket.
func (m *Mux) accept() {
	pause := firstAcceptPause
	for {
		conn, err := m.listener.Accept()
		if err == nil {
			pause = firstAcceptPause
			m.admit(conn)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		m.config.Logger.Error("cannot accept connections between nodes", "error", err, "pause", pause)
		rest := time.NewTimer(pause)
		select {
		case <-rest.C:
			pause = min(2*pause, maxAcceptPause)
		case <-m.closing:
			rest.Stop()
			return
		}
	}
}

// admit gives a connection its introduction, and a slot for that. When there is
// none, the one that must give way is closed, and its slot is free as soon as
// its goroutine has seen that: so there are never more goroutines than slots.
func (m *Mux) admit(conn net.Conn) {
	h := &handshake{conn: conn, host: hostOf(conn.RemoteAddr())}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		m.hangUp(conn)
		return
	}
	victim := m.pending.add(h)
	m.mu.Unlock()
	if victim != nil {
		m.log.note("a connection between nodes came to nothing", victim.conn, errGaveWay)
		m.hangUp(victim.conn)
	}
	m.slots <- struct{}{}
	m.loops.Go(func() { m.introduce(h) })
}

// introduce is the goroutine of one handshake. It owns the connection until it
// delivers it, is woken by it or its deadline, and ends with the introduction.
func (m *Mux) introduce(h *handshake) {
	defer func() { <-m.slots }()
	conn, listener, err := m.answer(h)
	if err != nil {
		m.log.note("a connection between nodes came to nothing", h.conn, err)
		linger(h.conn)
	}
	inTime := m.release(h)
	switch {
	case err != nil:
	case !inTime:
		listener.giveBack()
	case listener.deliver(conn) == nil:
		return
	}
	m.hangUp(h.conn)
}

// release ends the time in which the connection may be closed by others: from
// then on it is the introduction's alone. It returns false if it is too late.
func (m *Mux) release(h *handshake) (inTime bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pending.remove(h) && !m.closed
}

func (m *Mux) hangUp(conn net.Conn) {
	if err := ignoreClosed(conn.Close()); err != nil {
		m.config.Logger.Debug("close", "remote", conn.RemoteAddr(), "error", err)
	}
}
