package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// lingerTimeout is how long a drained connection waits for its client to close first. Closing at once while requests
// of the client lie unread in the socket would make TCP reset the connection and could destroy replies in flight.
const lingerTimeout = 250 * time.Millisecond

// session is one connection, from its acceptance until its last request is completed.
type session struct {
	server    *Server
	socket    net.Conn // as accepted; closing it ends everything that blocks on the connection
	transport net.Conn // the socket, or TLS over it
	local     bool     // the client is on this machine
	log       *slog.Logger
	in        inbox
	ledger    *ledger
	// stream is set when the transmission phase begins. Others than the reader get at it through Server.mu.
	stream *stream

	stop     chan struct{} // closed by kill
	killOnce sync.Once
	draining atomic.Bool

	// Guarded by Server.mu.
	negotiating bool
	evicted     bool // no longer counted, though not yet gone
}

func newSession(server *Server, socket net.Conn) *session {
	s := &session{
		server:      server,
		socket:      socket,
		transport:   socket,
		local:       isLocal(socket.RemoteAddr()),
		log:         server.cfg.Logger.With("client", socket.RemoteAddr().String()),
		ledger:      newLedger(&server.reserve, server.cfg),
		stop:        make(chan struct{}),
		negotiating: true,
	}
	s.in = inbox{
		buf:  make([]byte, negotiationInboxBytes),
		owed: stallClock{epoch: server.epoch},
	}
	s.in.readFrom(socket)
	return s
}

// isLocal reports whether a client is on this machine: on a unix socket or a pipe, or on a loopback address.
func isLocal(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}

// run serves the connection. It owns the reading side and everything that is not shared; the client's bytes wake it; it
// ends with the connection, after the last of its requests has been completed.
func (s *session) run() {
	defer s.kill()
	chosen, err := s.negotiate()
	if err != nil {
		s.logEnd("negotiation ended", err)
		return
	}
	if err := s.transmit(chosen); err != nil {
		s.logEnd("connection ended", err)
	}
}

func (s *session) negotiate() (*selection, error) {
	if err := s.socket.SetDeadline(time.Now().Add(s.server.cfg.NegotiationTimeout)); err != nil {
		return nil, err
	}
	if s.draining.Load() { // looked at after the deadline, which beginDraining sets after the flag, has been overwritten
		return nil, errDraining
	}
	n := negotiation{session: s, tlsRequired: s.server.cfg.TLSRequired && (!s.local || !s.server.cfg.TLSExemptLocal)}
	chosen, err := n.run()
	if err != nil {
		return nil, err
	}
	return chosen, s.socket.SetDeadline(time.Time{})
}

// transmit runs the transmission phase and winds it up: what was submitted is answered if the connection is still worth
// it, and completed in any case.
func (s *session) transmit(chosen *selection) error {
	stream, err := newStream(s, chosen.export, chosen.structured)
	if err != nil {
		return err
	}
	s.server.beginTransmission(s, stream)
	s.log.Info("connection begins", "export", chosen.export.Name, "tls", s.transport != s.socket)

	var loops sync.WaitGroup
	written := make(chan struct{})
	loops.Go(func() { stream.writeLoop(written) })
	if chosen.export.Revoked != nil {
		loops.Go(func() { s.awaitRevocation(chosen.export.Revoked) })
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := newTransmission(ctx, s, chosen)
	t.startReaders()
	<-t.ended
	s.drain(t)
	if stream.isRevoked() {
		s.reset()
	}
	s.kill()
	cancel()
	close(written)
	loops.Wait()
	t.active.Wait()
	stream.abandon()
	stream.takeBack()
	<-stream.awaitIdle(t.submitted)
	return t.reason
}

// drain answers what is in flight if the client or the server ended the transmission in the orderly way.
func (s *session) drain(t *transmission) {
	disconnected := errors.Is(t.reason, errDisconnect)
	orderly := disconnected || s.draining.Load() && !errors.Is(t.reason, errViolation)
	if !orderly {
		return
	}
	select {
	case <-s.stream.awaitIdle(t.submitted):
	case <-s.stop:
		return
	}
	if err := s.closeWriting(); err != nil {
		s.log.Debug("close failed", "error", err)
	}
	if !disconnected {
		s.linger()
	}
}

// closeWriting tells the client that nothing follows.
func (s *session) closeWriting() error {
	switch transport := s.transport.(type) {
	case *tls.Conn:
		return transport.CloseWrite()
	case interface{ CloseWrite() error }:
		return transport.CloseWrite()
	}
	return nil
}

// linger reads the client's remaining requests away until it closes, for a bounded time.
func (s *session) linger() {
	if err := s.socket.SetReadDeadline(time.Now().Add(lingerTimeout)); err != nil {
		return
	}
	for {
		if _, err := s.socket.Read(s.in.buf); err != nil {
			return
		}
	}
}

// awaitRevocation owns nothing; the export's revocation or the end of the connection wakes and ends it. What the kernel
// has taken but not yet sent must not leave either, so the socket is reset instead of closed.
func (s *session) awaitRevocation(revoked <-chan struct{}) {
	select {
	case <-revoked:
	case <-s.stop:
		return
	}
	s.log.Info("connection cut off: the export was revoked")
	s.server.revoked.Add(1)
	s.reset()
}

// reset ends the connection and drops what the kernel still holds of it.
func (s *session) reset() {
	if tcp, ok := s.socket.(interface{ SetLinger(seconds int) error }); ok {
		if err := tcp.SetLinger(0); err != nil {
			s.log.Debug("reset failed, closing", "error", err)
		}
	}
	s.kill()
}

// kill closes the connection. Whoever is blocked on it fails.
func (s *session) kill() {
	s.killOnce.Do(func() {
		close(s.stop)
		if err := s.socket.Close(); err != nil {
			s.log.Debug("close failed", "error", err)
		}
	})
}

// beginDraining makes the reader stop before the next option or request. The flag is set before the deadline; whoever
// sets another deadline looks at the flag after that.
func (s *session) beginDraining() {
	s.draining.Store(true)
	if err := s.socket.SetReadDeadline(time.Unix(1, 0)); err != nil {
		s.kill()
	}
}

// fail ends the connection because of an error on its sending side. One of them is the revocation, so it is a reset.
func (s *session) fail(doing string, err error) {
	select {
	case <-s.stop:
	default:
		s.log.Info("connection failed", "doing", doing, "error", err)
	}
	s.reset()
}

// logEnd logs why a connection ended, quietly if somebody wanted it to.
func (s *session) logEnd(message string, err error) {
	level := slog.LevelInfo
	if errors.Is(err, errDisconnect) || errors.Is(err, errAborted) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		level = slog.LevelDebug
	}
	s.log.Log(context.Background(), level, message, "reason", err)
}
