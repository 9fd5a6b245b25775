package quorum

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// maxHandlers bounds the forwarded requests served at once. A cluster makes a handful; more is a fault or an attack.
	maxHandlers = 64
	// requestWait bounds how long an accepted connection may take to state its request.
	requestWait = 5 * time.Second
	// replyWait is what is left to deliver a reply after the work is done.
	replyWait = 2 * time.Second
	// acceptPause keeps a listener that fails again and again from spinning.
	acceptPause = 50 * time.Millisecond
)

// handlers are the connections being served. It owns them: closeAll ends them, wait waits for their goroutines.
type handlers struct {
	limit int

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
	wg     sync.WaitGroup
}

// serve runs handle for conn on a goroutine of its own, unless there are too many, and closes conn after it.
func (h *handlers) serve(conn net.Conn, handle func(net.Conn), release func(net.Conn)) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.conns) >= h.limit {
		return false
	}
	if h.conns == nil {
		h.conns = map[net.Conn]struct{}{}
	}
	h.conns[conn] = struct{}{}
	h.wg.Go(func() {
		handle(conn)
		release(conn)
		h.mu.Lock()
		delete(h.conns, conn)
		h.mu.Unlock()
	})
	return true
}

func (h *handlers) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for conn := range h.conns {
		// An error changes nothing: the handler sees that the connection is gone, and closes it once more.
		if err := conn.Close(); err != nil {
			continue
		}
	}
}

func (h *handlers) wait() { h.wg.Wait() }

// acceptLoop takes connections of a channel. It owns the listener's accept side, is woken by connections, and ends when
// Close closes the listener.
func (n *Node) acceptLoop(l net.Listener, channel Channel, handling *handlers, handle func(net.Conn)) {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			if !handling.serve(conn, handle, n.closeQuietly) {
				n.log.Warn("too many connections at once, one was turned away", "channel", channel, "limit", handling.limit)
				n.closeQuietly(conn)
			}
			continue
		case errors.Is(err, net.ErrClosed) || n.ctx.Err() != nil:
			return
		}
		n.log.Warn("a connection could not be accepted", "channel", channel, "error", err)
		select {
		case <-n.ctx.Done():
			return
		case <-time.After(acceptPause):
		}
	}
}

// handle serves the one request of a connection.
func (n *Node) handle(conn net.Conn) {
	if err := conn.SetDeadline(time.Now().Add(requestWait)); err != nil {
		n.log.Debug("forwarded request dropped", "error", err)
		return
	}
	q, err := readRequest(conn)
	if err != nil {
		n.log.Debug("forwarded request dropped", "error", err)
		return
	}
	wait := min(time.Duration(min(q.TimeoutMillis, time.Hour.Milliseconds()))*time.Millisecond, n.cfg.Timing.Propose)
	if err := conn.SetDeadline(time.Now().Add(wait + replyWait)); err != nil {
		n.log.Debug("forwarded request dropped", "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, wait)
	defer cancel()
	a := n.serveRequest(ctx, conn, q)
	a.Version = forwardVersion
	if err := writeFrame(conn, a, maxReplyBytes); err != nil {
		n.log.Debug("reply to a forwarded request was lost", "error", err)
	}
}

// serveRequest checks who asks and passes the request on its way.
func (n *Node) serveRequest(ctx context.Context, conn net.Conn, q request) reply {
	if n.cfg.PeerName == nil {
		return n.route(ctx, q)
	}
	name := n.cfg.PeerName(conn)
	if n.State().hasNode(name) {
		return n.route(ctx, q)
	}
	stranger := reply{Code: codeNoLeader, Reason: fmt.Sprintf("%s knows no node %q: it was removed from the cluster, or never joined", n.cfg.Node, name)}
	if !n.leads() {
		return stranger // which may have joined a moment ago: the leader knows
	}
	s, a := n.current(ctx)
	switch {
	case a.Code != codeOK:
		return stranger
	case !s.hasNode(name):
		stranger.Code = codeRefused
		return stranger
	}
	return n.route(ctx, q)
}

func (s *State) hasNode(name string) bool {
	_, found := s.Nodes[name]
	return found
}

// converse sends a request and reads the reply.
func converse(conn net.Conn, deadline time.Time, q request) (reply, error) {
	// The other end answers by its own deadline, so that "unknown" comes from where it is known best.
	if err := conn.SetDeadline(deadline.Add(replyWait)); err != nil {
		return reply{}, fmt.Errorf("quorum: %w", err)
	}
	if err := writeFrame(conn, q, maxRequestBytes); err != nil {
		return reply{}, err
	}
	return readReply(conn)
}

// closeQuietly closes a connection on which nothing is expected any more.
func (n *Node) closeQuietly(conn net.Conn) {
	if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		n.log.Debug("closing a connection", "error", err)
	}
}
