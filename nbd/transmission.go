package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"duet/nbd/internal/wire"
)

var (
	// errDisconnect ends a transmission because the client said so.
	errDisconnect = errors.New("the client disconnected")
	// errDraining ends it because the server is closing.
	errDraining = errors.New("the server is closing")
	// errViolation ends it because the client broke the protocol in a way that loses the framing.
	errViolation = errors.New("protocol violation")
)

// statusRequests bounds the BLOCK_STATUS requests of one connection that are looked up at a time.
const statusRequests = 4

// transmission is the reading side of the transmission phase: it decodes requests, judges them, and submits them to the
// device. It belongs to one goroutine.
type transmission struct {
	ctx       context.Context // of the connection, for what runs beside its reader
	session   *session
	in        *inbox
	stream    *stream
	device    Device
	terms     terms
	burst     *burst
	submitted uint64 // requests that were or will be completed
	lookups   chan struct{}
}

func newTransmission(ctx context.Context, s *session, chosen *selection) transmission {
	t := transmission{
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
		burst:   &burst{in: &s.in, own: s.stream},
		lookups: make(chan struct{}, statusRequests),
	}
	s.in.grow(transmissionInboxBytes)
	s.in.beforeRead = t.burst.end
	return t
}

// run serves requests until the connection ends, and returns why.
func (t *transmission) run() error {
	for {
		if t.session.draining.Load() {
			return errDraining
		}
		src, err := t.in.peek(wire.RequestBytes)
		if err != nil {
			return t.ended(err)
		}
		header, err := wire.DecodeRequest(src)
		if err != nil {
			return errors.Join(errViolation, err)
		}
		t.in.skip(wire.RequestBytes)
		if header.Command == wire.CmdDisc {
			return errDisconnect
		}
		if err := t.serve(header); err != nil {
			return t.ended(err)
		}
	}
}

// ended says why the socket could not be read.
func (t *transmission) ended(err error) error {
	var timeout net.Error
	if t.session.draining.Load() && errors.As(err, &timeout) && timeout.Timeout() {
		return errDraining
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the client closed the connection without saying so: %w", err)
	}
	return err
}

// serve carries out one request. An error means that the connection can't go on.
func (t *transmission) serve(header wire.Request) error {
	t.terms.sizeBytes = t.device.SizeBytes()
	if errno := t.terms.check(header); errno != 0 {
		return t.refuse(header, errno)
	}
	r, err := t.admit(header, roomFor(header))
	if err != nil {
		return err
	}
	if header.Command == wire.CmdWrite {
		if err := t.in.readFull(r.payload); err != nil {
			t.session.ledger.refund(r.charge)
			t.session.recycle(r)
			return err
		}
	}
	t.submitted++
	t.submit(r)
	return nil
}

// refuse answers a request that check turned down, after reading its payload away.
func (t *transmission) refuse(header wire.Request, errno wire.Errno) error {
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
	if t.stream.reply(r, errno, t.terms.reason(header, errno)) {
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
func (t *transmission) submit(r *request) {
	offset, length := r.Offset, uint64(r.Length)
	fua := r.Flags&wire.FlagFUA != 0
	switch {
	case r.Command == wire.CmdFlush:
		t.device.Flush(t.burst, r)
	case length == 0:
		r.Complete(t.burst, nil)
	case r.Command == wire.CmdRead:
		t.device.Read(r.payload, offset, t.burst, r)
	case r.Command == wire.CmdWrite:
		t.device.Write(r.payload, offset, fua, t.burst, r)
	case r.Command == wire.CmdTrim:
		t.device.Trim(offset, length, fua, t.burst, r)
	case r.Command == wire.CmdWriteZeroes:
		noHole, fast := r.Flags&wire.FlagNoHole != 0, r.Flags&wire.FlagFastZero != 0
		t.device.Zero(offset, length, fua, noHole, fast, t.burst, r)
	case r.Command == wire.CmdCache:
		t.device.Cache(offset, length, t.burst, r)
	case r.Command == wire.CmdBlockStatus:
		t.lookUp(r)
	}
}
