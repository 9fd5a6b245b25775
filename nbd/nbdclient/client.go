package nbdclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"duet/nbd/internal/wire"
)

// closeTimeout is how long Close waits for the answers to requests in flight.
const closeTimeout = 5 * time.Second

// Op is what a request does.
type Op int

// The operations.
const (
	Read Op = iota
	Write
	Flush
	Trim
	Zero
	Cache
)

var commands = [...]wire.Command{
	Read: wire.CmdRead, Write: wire.CmdWrite, Flush: wire.CmdFlush,
	Trim: wire.CmdTrim, Zero: wire.CmdWriteZeroes, Cache: wire.CmdCache,
}

// String returns the operation's name in the protocol.
func (o Op) String() string {
	if o < 0 || int(o) >= len(commands) {
		return fmt.Sprintf("operation %d", int(o))
	}
	return commands[o].String()
}

// Request is one thing to do.
type Request struct {
	Op          Op
	OffsetBytes uint64
	// Data is what to write, or where to put what is read. It must not be touched while the request is in flight.
	Data []byte
	// LengthBytes is the length of what has no data: Trim, Zero, Cache.
	LengthBytes uint32
	FUA         bool // be on stable media before answering
	NoHole      bool // Zero: keep the range allocated
	FastZero    bool // Zero: fail rather than write zeroes
}

func (r Request) header(cookie uint64) wire.Request {
	h := wire.Request{Command: commands[r.Op], Cookie: cookie, Offset: r.OffsetBytes, Length: r.LengthBytes}
	if r.Op == Read || r.Op == Write {
		h.Length = uint32(len(r.Data))
	}
	if r.FUA {
		h.Flags |= wire.FlagFUA
	}
	if r.NoHole {
		h.Flags |= wire.FlagNoHole
	}
	if r.FastZero {
		h.Flags |= wire.FlagFastZero
	}
	return h
}

// Client is a connection in the transmission phase. Its methods may be called from any goroutine.
type Client struct {
	conn       net.Conn
	structured bool
	sizeBytes  uint64
	flags      wire.TransmissionFlags
	window     chan struct{} // holds one for each request in flight
	lost       chan struct{} // closed when the connection is
	received   chan struct{} // closed when the receiver has ended

	sendMu sync.Mutex // held while a request is put on the wire
	buf    []byte

	mu     sync.Mutex
	calls  map[uint64]*call
	cookie uint64
	err    error // why the connection was lost
}

// call is a request in flight.
type call struct {
	op       Op
	data     []byte // of a Read: where to put it
	offset   uint64
	received uint64 // bytes of data
	failure  error  // told by a chunk before the last one
	done     func(error)
}

// Dial connects to a server, "tcp" or "unix", and chooses the export.
func Dial(ctx context.Context, network, address string, cfg Config) (*Client, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return New(ctx, conn, cfg)
}

// New chooses the export on a connection that is already there, and takes it over.
func New(ctx context.Context, conn net.Conn, cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	h, err := negotiate(ctx, conn, cfg)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("nbdclient: %w", err), conn.Close())
	}
	c := &Client{
		conn:       h.conn,
		structured: h.structured,
		sizeBytes:  h.sizeBytes,
		flags:      h.flags,
		window:     make(chan struct{}, cfg.MaxInFlight),
		lost:       make(chan struct{}),
		received:   make(chan struct{}),
		calls:      make(map[uint64]*call),
	}
	go c.receive()
	return c, nil
}

// SizeBytes returns the size of the export.
func (c *Client) SizeBytes() uint64 { return c.sizeBytes }

// ReadOnly reports whether the export refuses writes.
func (c *Client) ReadOnly() bool { return c.flags&wire.ReadOnly != 0 }

// CanMultiConn reports whether a flush on one connection covers the writes of all.
func (c *Client) CanMultiConn() bool { return c.flags&wire.CanMultiConn != 0 }

// Lost is closed when the connection is lost or closed.
func (c *Client) Lost() <-chan struct{} { return c.lost }

// Err returns why the connection was lost, nil while it is not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Start begins a request and returns when it has been sent, having waited for a place among those in flight. Unless
// Start returns an error, done is called exactly once, on the goroutine that receives replies, which it must not hold
// up. If ctx ends while the request is half sent, the connection is lost.
func (c *Client) Start(ctx context.Context, r Request, done func(error)) error {
	if r.Op < 0 || int(r.Op) >= len(commands) || len(r.Data) > wire.MaxPayloadBytes {
		return fmt.Errorf("nbdclient: %v of %d bytes", r.Op, len(r.Data))
	}
	select {
	case c.window <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.lost:
		return c.Err()
	}
	cookie, err := c.register(r, done)
	if err != nil {
		<-c.window
		return err
	}
	unwatch := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	defer unwatch()
	if err := c.send(r, cookie); err != nil {
		c.fail(err) // tells done, like everybody else's
	}
	return nil
}

// register makes the request one that replies are expected for.
func (c *Client) register(r Request, done func(error)) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.cookie++
	waiting := &call{op: r.Op, offset: r.OffsetBytes, done: done}
	if r.Op == Read {
		waiting.data = r.Data
	}
	c.calls[c.cookie] = waiting
	return c.cookie, nil
}

// send puts a request on the wire.
func (c *Client) send(r Request, cookie uint64) error {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.buf = r.header(cookie).Append(c.buf[:0])
	if r.Op != Write {
		_, err := c.conn.Write(c.buf)
		return err
	}
	parts := net.Buffers{c.buf, r.Data}
	_, err := parts.WriteTo(c.conn)
	return err
}

// Do carries out a request and waits for the answer. NBD has no way to take a request back, so if ctx ends first the
// connection is lost.
func (c *Client) Do(ctx context.Context, r Request) error {
	answer := make(chan error, 1)
	if err := c.Start(ctx, r, func(err error) { answer <- err }); err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		c.fail(context.Cause(ctx))
		return <-answer
	}
}

// Read fills p from an offset.
func (c *Client) Read(ctx context.Context, p []byte, offsetBytes uint64) error {
	return c.Do(ctx, Request{Op: Read, OffsetBytes: offsetBytes, Data: p})
}

// Write writes p at an offset.
func (c *Client) Write(ctx context.Context, p []byte, offsetBytes uint64) error {
	return c.Do(ctx, Request{Op: Write, OffsetBytes: offsetBytes, Data: p})
}

// Flush puts what was written before on stable media.
func (c *Client) Flush(ctx context.Context) error { return c.Do(ctx, Request{Op: Flush}) }

// Trim gives a range up.
func (c *Client) Trim(ctx context.Context, offsetBytes uint64, lengthBytes uint32) error {
	return c.Do(ctx, Request{Op: Trim, OffsetBytes: offsetBytes, LengthBytes: lengthBytes})
}

// Zero makes a range read as zeroes.
func (c *Client) Zero(ctx context.Context, offsetBytes uint64, lengthBytes uint32) error {
	return c.Do(ctx, Request{Op: Zero, OffsetBytes: offsetBytes, LengthBytes: lengthBytes})
}

// Close says goodbye, waits a bounded time for the answers to what is in flight, and closes the connection.
func (c *Client) Close() error {
	err := c.conn.SetDeadline(time.Now().Add(closeTimeout))
	if err == nil {
		err = c.sayGoodbye()
	}
	if err == nil {
		<-c.received
	}
	c.fail(ErrClosed)
	<-c.received
	return nil
}

func (c *Client) sayGoodbye() error {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	_, err := c.conn.Write(wire.Request{Command: wire.CmdDisc}.Append(nil))
	return err
}

// fail ends the connection, once. The receiver, which notices, tells everybody who waits: it may be filling the data of
// one of them right now.
func (c *Client) fail(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = fmt.Errorf("%w: %w", ErrLost, cause)
	close(c.lost)
	if err := c.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		c.err = errors.Join(c.err, err)
	}
}
