package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"duet/nbd/internal/wire"
)

var (
	// errDisconnect ends a transmission because the client said so.
	errDisconnect = errors.New("the client disconnected")
	// errDraining ends it because the server is closing.
	errDraining = errors.New("the server is closing")
	// errRelieved ends a reader in whose place another one reads.
	errRelieved = errors.New("another reader has taken over")
	// errViolation ends it because the client broke the protocol in a way that loses the framing.
	errViolation = errors.New("protocol violation")
)

// statusRequests bounds the BLOCK_STATUS requests of one connection that are looked up at a time.
const statusRequests = 4

const (
	// largeBytes is from which payload on the following request is expected to be as large.
	largeBytes = 64 << 10
	// relayBytes is from which payload on a WRITE is submitted while another goroutine reads on. Copying that much into
	// a device's page cache takes longer than waking one.
	relayBytes = 256 << 10
	// readers take turns on a connection. With two, the copy out of the socket and the copy into the device overlap; a
	// third gained nothing.
	readers = 2
)

// transmission is the reading side of the transmission phase: it decodes requests, judges them, and submits them to the
// device. It belongs to the reader that has the turn.
type transmission struct {
	ctx       context.Context // of the connection, for what runs beside its readers
	session   *session
	in        *inbox
	stream    *stream
	device    Device
	terms     terms
	burst     *burst        // of the reader that has the turn
	submitted uint64        // requests that were or will be completed
	pass      int           // requests since the last read of the socket
	lookups   chan struct{} // holds one for each BLOCK_STATUS that is looked up

	turn   chan struct{}  // holds one when no reader has the turn
	ended  chan struct{}  // closed by the reader that finds the end
	reason error          // why it ended; valid once ended is closed
	active sync.WaitGroup // readers, without those that were relieved
}

func newTransmission(ctx context.Context, s *session, chosen *selection) *transmission {
	t := &transmission{
		ctx:     ctx,
		session: s,
		in:      &s.in,
		stream:  s.stream,
		device:  chosen.export.Device,
		terms: terms{
			readOnly:   chosen.export.ReadOnly,
			structured: chosen.structured,
			allocation: chosen.allocation,
		},
		lookups: make(chan struct{}, statusRequests),
		turn:    make(chan struct{}, 1),
		ended:   make(chan struct{}),
	}
	t.burst = t.newBurst()
	s.in.grow(transmissionInboxBytes)
	s.in.beforeRead = t.endPass
	t.turn <- struct{}{}
	return t
}

func (t *transmission) newBurst() *burst {
	return &burst{in: t.in, own: t.stream, relieve: t.relieveTurn}
}

// startReaders starts those that take turns.
func (t *transmission) startReaders() {
	t.active.Add(readers)
	for range readers {
		go t.reader()
	}
}

// reader is one of them. Once it was relieved it is nobody's.
func (t *transmission) reader() {
	if !errors.Is(t.readLoop(), errRelieved) {
		t.active.Done()
	}
}

// relieveTurn is for a reader that has the turn and is stuck in the device.
func (t *transmission) relieveTurn(stuck *burst) {
	go func() {
		stuck.end()
		t.burst = t.newBurst()
		t.turn <- struct{}{}
		t.reader()
	}()
}

// relieveAside is for one that has passed the turn on.
func (t *transmission) relieveAside(stuck *burst) {
	go func() {
		stuck.end()
		t.reader()
	}()
}

// endPass ends what one read of the socket brought. A client that sent one request waits for its answer, which leaves now
// or is on its way, so the next one is near; the socket may have a method to be told so.
func (t *transmission) endPass() {
	t.burst.end()
	if hint, ok := t.session.socket.(interface{ ExpectSoon(soon bool) }); ok {
		hint.ExpectSoon(t.pass == 1 && !t.in.expectLarge)
	}
	t.pass = 0
}

// readLoop reads and submits requests while it has the turn, which it owns the connection's reading side by. It passes
// the turn on before it submits a large write, and waits for it again afterwards. It ends with the transmission.
func (t *transmission) readLoop() error {
	aside := &burst{own: t.stream, relieve: t.relieveAside}
	for {
		select {
		case <-t.turn:
		case <-t.ended:
			return nil
		}
		large, err := t.run()
		if errors.Is(err, errRelieved) {
			return err
		}
		t.burst.end()
		if err != nil {
			t.reason = err
			close(t.ended)
			return nil
		}
		t.turn <- struct{}{}
		t.submit(large, aside)
		if aside.relieved.Load() {
			return errRelieved
		}
		aside.end()
	}
}

// run serves requests until the connection ends, and returns why, or until one is to be submitted aside.
func (t *transmission) run() (*request, error) {
	for {
		if t.session.draining.Load() {
			return nil, errDraining
		}
		src, err := t.in.peek(wire.RequestBytes)
		if err != nil {
			return nil, t.why(err)
		}
		header, err := wire.DecodeRequest(src)
		if err != nil {
			return nil, errors.Join(errViolation, err)
		}
		t.in.skip(wire.RequestBytes)
		t.pass++
		if header.Command == wire.CmdDisc {
			return nil, errDisconnect
		}
		r, err := t.serve(header)
		if err != nil {
			return nil, t.why(err)
		}
		if r != nil {
			return r, nil
		}
	}
}

// ended says why the socket could not be read.
func (t *transmission) why(err error) error {
	var timeout net.Error
	if t.session.draining.Load() && errors.As(err, &timeout) && timeout.Timeout() {
		return errDraining
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the client closed the connection without saying so: %w", err)
	}
	return err
}

// serve carries out one request, or returns it to be submitted aside. An error means that the connection can't go on.
func (t *transmission) serve(header wire.Request) (*request, error) {
	t.terms.sizeBytes = t.device.SizeBytes()
	if errno, reason := t.terms.check(header); errno != 0 {
		return nil, t.refuse(header, errno, reason)
	}
	r, err := t.admit(header, roomFor(header))
	if err != nil {
		return nil, err
	}
	if header.Command == wire.CmdWrite {
		if err := t.in.readFull(r.payload); err != nil {
			t.session.ledger.refund(r.charge)
			t.session.recycle(r)
			return nil, err
		}
	}
	t.submitted++
	t.in.expectLarge = header.Command == wire.CmdWrite && header.Length >= largeBytes
	if header.Command == wire.CmdWrite && header.Length >= relayBytes {
		return r, nil
	}
	b := t.burst
	t.submit(r, b)
	if b.relieved.Load() {
		return nil, errRelieved
	}
	return nil, nil
}

// refuse answers a request that check turned down, after reading its payload away.
func (t *transmission) refuse(header wire.Request, errno wire.Errno, reason string) error {
	if header.Command == wire.CmdWrite {
		if err := t.in.discard(uint64(header.Length)); err != nil {
			return err
		}
	}
	r, err := t.admit(header, 0)
	if err != nil {
		return err
	}
	t.submitted++
	if t.stream.reply(r, errno, reason) {
		t.stream.Flush()
		return nil
	}
	t.burst.Defer(t.stream)
	return nil
}

// roomFor returns how much payload memory a legal request needs.
func roomFor(header wire.Request) uint32 {
	switch header.Command {
	case wire.CmdRead, wire.CmdWrite:
		return header.Length
	case wire.CmdBlockStatus:
		return statusReplyBytes
	}
	return 0
}

// admit charges for a request and takes it into the pooled form. When there is no memory it waits, which is what holds
// back a client that asks for more than it may have in flight.
func (t *transmission) admit(header wire.Request, payloadBytes uint32) (*request, error) {
	bytes := max(minChargeBytes, classBytes(classOf(payloadBytes)))
	c, ok := t.session.ledger.tryCharge(bytes)
	if !ok {
		t.burst.end()
		if c, ok = t.session.ledger.awaitCharge(bytes, t.session.stop); !ok {
			return nil, net.ErrClosed
		}
	}
	return t.session.newRequest(header, c, payloadBytes), nil
}

// submit hands a legal request to the device, or completes it when there is nothing to do.
func (t *transmission) submit(r *request, b *burst) {
	offset, length := r.Offset, uint64(r.Length)
	fua := r.Flags&wire.FlagFUA != 0
	switch {
	case r.Command == wire.CmdFlush:
		t.device.Flush(b, r)
	case length == 0:
		r.Complete(b, nil)
	case r.Command == wire.CmdRead:
		t.device.Read(r.payload, offset, b, r)
	case r.Command == wire.CmdWrite:
		t.device.Write(r.payload, offset, fua, b, r)
	case r.Command == wire.CmdTrim:
		t.device.Trim(offset, length, fua, b, r)
	case r.Command == wire.CmdWriteZeroes:
		noHole, fast := r.Flags&wire.FlagNoHole != 0, r.Flags&wire.FlagFastZero != 0
		t.device.Zero(offset, length, fua, noHole, fast, b, r)
	case r.Command == wire.CmdCache:
		t.device.Cache(offset, length, b, r)
	case r.Command == wire.CmdBlockStatus:
		t.lookUp(r)
	}
}
