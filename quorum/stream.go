package quorum

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// hello opens every Raft stream, in both directions: the dialer's first, then the other's. A node whose directory was
// restored from a backup has forgotten its vote; it shows by its incarnation, and is refused as a voter here even
// before it tries to register.
type hello struct {
	Version     int    `json:"v"`
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
	RunID       string `json:"run_id"`
	Refused     string `json:"refused,omitempty"` // why the sender will not talk; nothing follows
}

const (
	helloVersion = 1
	// helloWait bounds how long an accepted stream may take to introduce itself.
	helloWait = 5 * time.Second
)

// vet says why other may not take part as the node it says it is.
func (s *State) vet(other hello) error {
	n, known := s.Nodes[other.Node]
	switch {
	case other.Version != helloVersion:
		return fmt.Errorf("quorum: %s speaks version %d, this node %d", other.Node, other.Version, helloVersion)
	case !known || n.Incarnation == 0:
		return nil // it may have joined a moment ago; Raft's own configuration decides
	case other.Incarnation > n.Incarnation, other.Incarnation == n.Incarnation && other.RunID == n.RunID:
		return nil
	}
	return fmt.Errorf("quorum: %s comes as incarnation %d, but %d is registered: its directory was restored from a backup, or copied",
		other.Node, other.Incarnation, n.Incarnation)
}

// streamLayer gives Raft its streams: raft.StreamLayer over Config.Dial and the listener of ChannelRaft. It tracks
// what it accepts, because Raft's transport leaves accepted streams open when it is closed.
type streamLayer struct {
	listener  net.Listener
	advertise string
	dial      func(ctx context.Context, address, node string, channel Channel) (net.Conn, error)
	nameOf    func(address string) string // the node that the Raft configuration has at an address
	self      hello
	vet       func(hello) error

	mu       sync.Mutex
	accepted map[*acceptedStream]struct{}
	closed   bool
	handlers sync.WaitGroup // one per accepted stream, until its handler closes it
}

// streamAddr is the advertised address in the shape that net.Listener wants.
type streamAddr string

// Network implements net.Addr.
func (streamAddr) Network() string { return "duet" }

// String implements net.Addr.
func (a streamAddr) String() string { return string(a) }

// Addr implements raft.StreamLayer.
func (l *streamLayer) Addr() net.Addr { return streamAddr(l.advertise) }

// Dial implements raft.StreamLayer.
func (l *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	node := l.nameOf(string(address))
	if node == "" {
		return nil, fmt.Errorf("quorum: no voter has address %s", address)
	}
	conn, err := l.dial(ctx, string(address), node, ChannelRaft)
	if err != nil {
		return nil, err
	}
	if err := l.greet(conn, node, timeout); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// greet is the dialer's side of the introduction.
func (l *streamLayer) greet(conn net.Conn, node string, timeout time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("quorum: %w", err)
	}
	if err := writeFrame(conn, l.self, maxHelloBytes); err != nil {
		return err
	}
	var other hello
	if err := readFrame(conn, &other, maxHelloBytes); err != nil {
		return err
	}
	switch {
	case other.Refused != "":
		return fmt.Errorf("quorum: %s refuses this node: %s", node, other.Refused)
	case other.Node != node:
		return fmt.Errorf("quorum: %q answers where %s should", other.Node, node)
	}
	if err := l.vet(other); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// Accept implements net.Listener. The introduction is left to the first Read, so that a slow stranger holds up his
// own stream only.
func (l *streamLayer) Accept() (net.Conn, error) {
	conn, err := l.listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	s := &acceptedStream{Conn: conn, layer: l}
	l.accepted[s] = struct{}{}
	l.handlers.Add(1)
	return s, nil
}

// Close implements net.Listener. Handlers of accepted streams end soon after; wait waits for them.
func (l *streamLayer) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	errs := []error{l.listener.Close()}
	for s := range l.accepted {
		errs = append(errs, s.Conn.Close())
	}
	return errors.Join(errs...)
}

// acceptedStream introduces itself on first use, and is done when its handler closes it.
type acceptedStream struct {
	net.Conn
	layer *streamLayer

	greetOnce sync.Once
	greetErr  error
	doneOnce  sync.Once
}

// Read implements net.Conn. Raft's transport reads from one goroutine and writes only after it has read.
func (s *acceptedStream) Read(p []byte) (int, error) {
	s.greetOnce.Do(func() { s.greetErr = s.answer() })
	if s.greetErr != nil {
		return 0, s.greetErr
	}
	return s.Conn.Read(p)
}

// answer is the accepting side of the introduction.
func (s *acceptedStream) answer() error {
	if err := s.SetDeadline(time.Now().Add(helloWait)); err != nil {
		return fmt.Errorf("quorum: %w", err)
	}
	var other hello
	if err := readFrame(s.Conn, &other, maxHelloBytes); err != nil {
		return err
	}
	mine := s.layer.self
	refusal := s.layer.vet(other)
	if refusal != nil {
		mine.Refused = refusal.Error()
	}
	if err := writeFrame(s.Conn, mine, maxHelloBytes); err != nil {
		return errors.Join(refusal, err)
	}
	if refusal != nil {
		return refusal
	}
	return s.SetDeadline(time.Time{})
}

// Close implements net.Conn.
func (s *acceptedStream) Close() error {
	err := s.Conn.Close()
	s.doneOnce.Do(func() {
		s.layer.mu.Lock()
		delete(s.layer.accepted, s)
		s.layer.mu.Unlock()
		s.layer.handlers.Done()
	})
	return err
}
