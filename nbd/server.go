package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// housekeepingInterval is how often stalled clients are looked for, and so how late they may be found.
	housekeepingInterval = 500 * time.Millisecond
	// acceptRetry is the pause after a failure to accept that may pass, such as too many open files.
	acceptRetry = 50 * time.Millisecond
)

// Server serves exports to NBD clients. It is started by Start and ended by Close.
type Server struct {
	cfg      Config
	tls      *tls.Config
	exports  Exports
	epoch    time.Time // of the stall clocks
	reserve  reserve
	buffers  buffers
	requests sync.Pool

	accepted atomic.Uint64
	refused  atomic.Uint64
	stalled  atomic.Uint64
	revoked  atomic.Uint64

	stop     chan struct{} // closed when Close begins
	quit     chan struct{} // closed when Close has no more use for the housekeeper
	quitOnce sync.Once
	loops    sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	listeners []net.Listener
	sessions  []*session    // in the order of their arrival
	counted   int           // sessions that are not evicted
	idle      chan struct{} // closed when the server is closed and the last session has ended
	past      Counters      // of the sessions that have ended
}

// Start returns a server of the exports. It serves nobody until Serve or ServeConn is called.
func Start(exports Exports, cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:     cfg,
		tls:     cfg.tlsConfig(),
		exports: exports,
		epoch:   time.Now(),
		reserve: reserve{freeBytes: cfg.SharedBytes},
		stop:    make(chan struct{}),
		quit:    make(chan struct{}),
		idle:    make(chan struct{}),
	}
	s.loops.Go(s.housekeeping)
	return s, nil
}

// Serve accepts clients from a listener, which the server closes, until Close or until the listener fails. Several
// listeners may be served at a time. It returns nil after Close.
func (s *Server) Serve(listener net.Listener) error {
	if !s.own(listener) {
		return listener.Close()
	}
	for {
		socket, err := listener.Accept()
		switch {
		case err == nil:
			s.admit(socket)
		case s.isClosed():
			return nil
		case !isTemporary(err):
			return fmt.Errorf("nbd: accept on %v: %w", listener.Addr(), err)
		default:
			s.cfg.Logger.Warn("accept failed, trying again", "address", listener.Addr().String(), "error", err)
			select {
			case <-time.After(acceptRetry):
			case <-s.stop:
			}
		}
	}
}

// ServeConn serves one connection that is already there, such as one end of a socket pair. The server closes it.
func (s *Server) ServeConn(socket net.Conn) { s.admit(socket) }

// isTemporary reports whether accepting may succeed later.
func isTemporary(err error) bool {
	var temporary interface{ Temporary() bool }
	return !errors.Is(err, net.ErrClosed) && errors.As(err, &temporary) && temporary.Temporary()
}

// own makes the listener one that Close closes, unless the server is closed.
func (s *Server) own(listener net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.listeners = append(s.listeners, listener)
	return true
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// admit begins a session, if there is room for it or room can be made.
func (s *Server) admit(socket net.Conn) {
	s.accepted.Add(1)
	session := newSession(s, socket)
	s.mu.Lock()
	admitted := !s.closed && (s.counted < s.cfg.MaxConnections || s.evictOldestNegotiating())
	if admitted {
		s.sessions = append(s.sessions, session)
		s.counted++
	}
	s.mu.Unlock()
	if !admitted {
		s.refused.Add(1)
		session.log.Warn("connection refused: too many", "limit", s.cfg.MaxConnections)
		session.kill()
		return
	}
	go func() {
		session.run()
		s.forget(session)
	}()
}

// evictOldestNegotiating makes room by ending the session that has been negotiating for longest, so that clients which
// connect and say nothing can't shut others out. The caller holds mu.
func (s *Server) evictOldestNegotiating() bool {
	for _, session := range s.sessions {
		if session.negotiating && !session.evicted {
			session.evicted = true
			s.counted--
			s.refused.Add(1)
			session.kill()
			return true
		}
	}
	return false
}

// beginTransmission notes that a session is past its negotiation.
func (s *Server) beginTransmission(session *session, stream *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session.negotiating = false
	session.stream = stream
}

// forget removes a session that has ended.
func (s *Server) forget(ended *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions = slices.DeleteFunc(s.sessions, func(other *session) bool { return other == ended })
	if !ended.evicted {
		s.counted--
	}
	if ended.stream != nil {
		s.past.add(ended.stream.counters())
	}
	s.signalIdle()
}

// signalIdle notes the end of the last session of a closed server. Nothing begins after it, so it happens once. The
// caller holds mu, and has just closed the server or removed a session.
func (s *Server) signalIdle() {
	if s.closed && len(s.sessions) == 0 {
		close(s.idle)
	}
}

// open finds an export for a client.
func (s *Server) open(name string) (*Export, error) {
	export, err := s.exports.Open(name)
	if err != nil {
		return nil, err
	}
	if export == nil || export.Device == nil {
		return nil, &Refused{Kind: RefusedUnknown, Message: fmt.Sprintf("there is no export %q", name)}
	}
	return export, nil
}

// Close stops accepting and reading requests, answers those in flight, and closes all connections. When ctx ends before
// that it closes them as they are and returns an error. Requests that the device has not completed by then are still
// its to complete; nobody waits for them.
func (s *Server) Close(ctx context.Context) error {
	err := s.beginClosing()
	for _, session := range s.snapshot() {
		session.beginDraining()
	}
	err = errors.Join(err, s.awaitIdle(ctx))
	s.quitOnce.Do(func() { close(s.quit) })
	s.loops.Wait()
	return err
}

// beginClosing makes the server refuse new work. It does so once.
func (s *Server) beginClosing() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.stop)
	var errs []error
	for _, listener := range s.listeners {
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	s.signalIdle()
	return errors.Join(errs...)
}

// awaitIdle waits until all sessions have ended, or cuts them off when ctx ends.
func (s *Server) awaitIdle(ctx context.Context) error {
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
	}
	left := s.snapshot()
	for _, session := range left {
		session.reset()
	}
	return fmt.Errorf("nbd: %d connections were cut off: %w", len(left), context.Cause(ctx))
}

// snapshot returns the present sessions.
func (s *Server) snapshot() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sessions)
}

// housekeeping cuts off stalled clients, also while Close drains. It owns nothing; a ticker wakes it; Close ends it.
func (s *Server) housekeeping() {
	ticker := time.NewTicker(housekeepingInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.cutStalled()
		case <-s.quit:
			return
		}
	}
}

// cutStalled ends the sessions whose client has made no progress for too long. Those that sit on memory for which
// others wait get less time.
func (s *Server) cutStalled() {
	contended := s.reserve.contended()
	for _, session := range s.snapshot() {
		limit := s.cfg.StallTimeout
		if contended && session.ledger.sharedBytes.Load() > 0 {
			limit = s.cfg.PressureTimeout
		}
		if stalled := s.stalledFor(session); stalled > limit {
			session.log.Warn("connection cut off: the client stalled", "for", stalled.String())
			s.stalled.Add(1)
			session.reset()
		}
	}
}

func (s *Server) stalledFor(session *session) time.Duration {
	s.mu.Lock()
	stream := session.stream
	s.mu.Unlock()
	if stream == nil {
		return 0 // the negotiation has its own deadline
	}
	return max(session.in.owed.running(), stream.blocked.running())
}

// Stats returns what the server has done and is doing.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{
		Connections: len(s.sessions),
		Accepted:    s.accepted.Load(),
		Refused:     s.refused.Load(),
		Stalled:     s.stalled.Load(),
		Revoked:     s.revoked.Load(),
		Counters:    s.past,
	}
	for _, session := range s.sessions {
		stats.InFlightBytes += session.ledger.heldBytes()
		if session.negotiating {
			stats.Negotiating++
		}
		if session.stream != nil {
			stats.add(session.stream.counters())
		}
	}
	return stats
}
