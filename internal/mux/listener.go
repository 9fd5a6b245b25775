package mux

import (
	"errors"
	"net"
	"sync"
)

// errBusy and errNotServed are reasons for refusals, errGaveWay one for closing.
var (
	errBusy      = errors.New("too many connections wait on this channel; try again")
	errNotServed = errors.New("this channel is not served here now")
	errGaveWay   = errors.New("its introduction took longest when too many were under way")
)

// channelListener is the net.Listener of one channel. Connections are put in by
// handshakes, which first reserve a place, so that putting never blocks.
type channelListener struct {
	channel Channel
	address net.Addr
	queue   chan *Conn
	done    chan struct{} // closed by Close

	mu       sync.Mutex
	reserved int // places promised to handshakes that still have to say OK
	closed   bool
}

func newChannelListener(channel Channel, address net.Addr, backlog int) *channelListener {
	return &channelListener{channel: channel, address: address, queue: make(chan *Conn, backlog), done: make(chan struct{})}
}

// Accept implements net.Listener; what it returns is a *Conn.
func (l *channelListener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, l.closedError()
	default:
	}
	select {
	case conn := <-l.queue:
		return conn, nil
	case <-l.done:
		return nil, l.closedError()
	}
}

func (l *channelListener) closedError() error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.address, Err: net.ErrClosed}
}

// Addr implements net.Listener: the address of the port that all channels share.
func (l *channelListener) Addr() net.Addr { return l.address }

// Close implements net.Listener. Connections that nobody accepted are closed.
// Further calls do nothing.
func (l *channelListener) Close() error {
	if !l.shut() {
		return nil
	}
	var errs []error
	for {
		select {
		case conn := <-l.queue:
			errs = append(errs, conn.Close())
		default:
			return errors.Join(errs...)
		}
	}
}

// shut makes the first Close the only one.
func (l *channelListener) shut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.closed = true
	close(l.done)
	return true
}

func (l *channelListener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// reserve promises a place in the queue; deliver or giveBack follows.
func (l *channelListener) reserve() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errNotServed
	}
	if len(l.queue)+l.reserved >= cap(l.queue) {
		return errBusy
	}
	l.reserved++
	return nil
}

func (l *channelListener) giveBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved--
}

// deliver puts a connection into its reserved place. It fails when the listener
// was closed meanwhile; the connection is then still the caller's.
func (l *channelListener) deliver(conn *Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved--
	if l.closed {
		return errNotServed
	}
	l.queue <- conn // never blocks: the place was reserved
	return nil
}
