package nbd

import (
	"duet/nbd/internal/wire"
)

// request is a command in progress. It is pooled and is its own Completion, so that carrying one out allocates nothing.
//
// Until it is submitted it belongs to the reader; then to the device, until Complete; then to the stream, until its
// reply has been queued.
type request struct {
	wire.Request
	stream *stream
	charge charge
	// payload is the data of a WRITE, the room for a READ, or the room for the descriptors of a BLOCK_STATUS. It lies
	// in buffer.
	payload []byte
	buffer  *buffer
	open    bool // not yet completed; guarded by the stream's lock from submission on
}

// Complete queues the reply, and sends it unless b promises to.
func (r *request) Complete(b interface {
	Defer(f interface{ Flush() })
	More() bool
}, err error) {
	stream := r.stream
	var errno wire.Errno
	var reason string
	if err != nil {
		errno, reason = errnoOf(err, r.Flags), err.Error()
	}
	full := stream.reply(r, errno, reason)
	if b == nil || full {
		stream.Flush()
		return
	}
	b.Defer(stream)
}

// KeepBuffer says that the device still uses the payload of a WRITE although it completes it: it is left to the garbage
// collector.
func (r *request) KeepBuffer() {
	if r.buffer != nil {
		r.stream.session.server.buffers.lent.Add(-1)
		r.buffer = nil
	}
}

// newRequest takes a request from the pool and lends it its payload memory.
func (s *session) newRequest(header wire.Request, c charge, payloadBytes uint32) *request {
	r, ok := s.server.requests.Get().(*request)
	if !ok {
		r = new(request)
	}
	r.Request, r.charge, r.stream, r.open = header, c, s.stream, true
	if payloadBytes > 0 {
		r.buffer = s.server.buffers.lend(payloadBytes)
		r.payload = r.buffer.data[:payloadBytes]
	}
	return r
}

// recycle gives a request back once nothing of it is referred to; its charge is the caller's to refund.
func (s *session) recycle(r *request) {
	if r.buffer != nil {
		s.server.buffers.giveBack(r.buffer)
	}
	*r = request{}
	s.server.requests.Put(r)
}
