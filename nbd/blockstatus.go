package nbd

import (
	"encoding/binary"
	"errors"
	"net"

	"duet/nbd/internal/wire"
)

const (
	// allocationID is the identifier given to the context base:allocation.
	allocationID = 1
	// statusReplyBytes holds a reply of 8,191 extents; a client asks again from where the reply ends.
	statusReplyBytes = wire.ContextIDBytes + 8191*wire.ExtentBytes
)

// errEnough stops a lookup when its reply is full.
var errEnough = errors.New("the reply is full")

// extents collects the descriptors of one BLOCK_STATUS reply.
type extents struct {
	dst       []byte // the chunk's payload so far
	remaining uint64 // bytes of the request not yet described
	limit     int    // descriptors
	count     int
	lastState uint32
}

func newExtents(room []byte, lengthBytes uint64, onlyOne bool) extents {
	e := extents{
		dst:       binary.BigEndian.AppendUint32(room[:0], allocationID),
		remaining: lengthBytes,
		limit:     (len(room) - wire.ContextIDBytes) / wire.ExtentBytes,
	}
	if onlyOne {
		e.limit = 1
	}
	return e
}

// add describes the next piece. What joins the previous one without a change of state is merged with it, because the
// specification wants consecutive descriptors to differ.
func (e *extents) add(lengthBytes uint64, hole, zero bool) error {
	lengthBytes = min(lengthBytes, e.remaining)
	if lengthBytes == 0 {
		return e.verdict()
	}
	var state uint32
	if hole {
		state |= wire.StateHole
	}
	if zero {
		state |= wire.StateZero
	}
	switch {
	case e.count > 0 && state == e.lastState:
		last := e.dst[len(e.dst)-wire.ExtentBytes:]
		binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+uint32(lengthBytes))
	case e.count == e.limit:
		return errEnough
	default:
		e.dst = binary.BigEndian.AppendUint32(e.dst, uint32(lengthBytes))
		e.dst = binary.BigEndian.AppendUint32(e.dst, state)
		e.count++
		e.lastState = state
	}
	e.remaining -= lengthBytes
	return e.verdict()
}

func (e *extents) verdict() error {
	if e.remaining == 0 {
		return errEnough
	}
	return nil
}

// lookUp carries out a BLOCK_STATUS, which may block, on a goroutine of its own. It owns the request; it ends with the
// lookup, at the latest when the connection does.
func (t *transmission) lookUp(r *request) {
	select {
	case t.lookups <- struct{}{}:
	default:
		t.burst.end()
		select {
		case t.lookups <- struct{}{}:
		case <-t.session.stop:
			r.Complete(nil, net.ErrClosed)
			return
		}
	}
	go func() {
		defer func() { <-t.lookups }()
		r.Complete(nil, t.describe(r))
	}()
}

// describe fills the request's payload with the descriptors of its range.
func (t *transmission) describe(r *request) error {
	e := newExtents(r.payload, uint64(r.Length), r.Flags&wire.FlagReqOne != 0)
	err := t.device.Extents(t.ctx, r.Offset, uint64(r.Length), e.add)
	if err != nil && !errors.Is(err, errEnough) && e.count == 0 {
		return err
	}
	if e.count == 0 {
		// A device that says nothing about the range knows nothing of holes: state zero is always a safe answer.
		if err := e.add(uint64(r.Length), false, false); !errors.Is(err, errEnough) {
			return err
		}
	}
	r.payload = e.dst
	return nil
}
