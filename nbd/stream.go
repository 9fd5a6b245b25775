package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"duet/nbd/internal/wire"
)

const (
	// copyBytes is below which the data of a READ is copied behind its header, so that many replies leave as one piece of
	// memory. Above it the copy costs more than an entry of the vector.
	copyBytes = 32 << 10
	// copyQueueBytes bounds what is copied while the client does not read: beyond it, replies are kept by reference.
	copyQueueBytes = 128 << 10
	// burstReplyBytes is the amount of queued replies that is sent without waiting for the end of a burst.
	burstReplyBytes = 64 << 10
	// keepBytes is the largest reply buffer that is kept when it has been sent.
	keepBytes = 256 << 10
	// inlineBlockingBytes is what the reader of a connection without a non-blocking path (TLS) sends itself, because it
	// most likely fits in the socket's buffer, instead of waking the writer.
	inlineBlockingBytes = 64 << 10
	// blockingWriteBytes is what is sent at a time where writes block, so that progress is seen.
	blockingWriteBytes = 256 << 10
	// sendRounds bounds how long a goroutine that completes requests goes on sending what others queue meanwhile.
	sendRounds = 2
	// maxReasonBytes bounds the text of an error chunk.
	maxReasonBytes = 256
)

// batch is replies in the order in which they leave: their headers and small payloads in one buffer, large payloads by
// reference at their place between them.
type batch struct {
	small  []byte
	large  []largePayload
	bytes  int
	charge charge
}

// largePayload follows small[:after].
type largePayload struct {
	after  int
	data   []byte
	buffer *buffer
}

func (b *batch) empty() bool { return len(b.small) == 0 }

// stream is the replying side of a connection. Any goroutine queues replies; one at a time sends.
//
// An inline send never blocks: what the socket does not take at once is left to writeLoop. So a goroutine that
// completes requests of many clients is not held up by one that does not read.
type stream struct {
	session    *session
	structured bool
	socket     syscall.RawConn // nil where only blocking writes exist (TLS)
	revoked    <-chan struct{}

	mu        sync.Mutex
	queue     batch
	sending   bool // some goroutine, or the pending wake, owns active and the sending side
	dead      bool // nothing leaves any more
	completed uint64
	counts    Counters
	submitted uint64        // valid when idle is set
	idle      chan struct{} // closed when everything submitted is completed, and has left unless dead

	wake    chan struct{} // hands the sending side over to writeLoop; holds one
	active  batch         // being sent, by the owner of sending
	vector  vector        // what of active has yet to leave
	blocked stallClock    // runs while the socket takes nothing

	// The arguments and the result of attempt, which is sendAttempt, bound once because binding allocates.
	attempt   func(fd uintptr) bool
	mayBlock  bool
	sendError error
}

func newStream(s *session, export *Export, structured bool) (*stream, error) {
	socket, err := nonBlockingSide(s.transport)
	if err != nil {
		return nil, err
	}
	st := &stream{
		session:    s,
		structured: structured,
		socket:     socket,
		revoked:    export.Revoked,
		wake:       make(chan struct{}, 1),
		blocked:    stallClock{epoch: s.server.epoch},
	}
	st.attempt = st.sendAttempt
	return st, nil
}

// reply queues the answer to r and recycles it. It reports whether so much is queued that it should go out now.
func (s *stream) reply(r *request, errno wire.Errno, reason string) (full bool) {
	s.mu.Lock()
	if !r.open {
		s.mu.Unlock()
		panic(fmt.Sprintf("nbd: %v request was completed twice", r.Command))
	}
	r.open = false
	s.completed++
	s.counts.count(r, errno)
	if s.dead {
		s.signalIdle()
		s.mu.Unlock()
		s.session.ledger.refund(r.charge)
		s.session.recycle(r)
		return false
	}
	s.queue.charge.ownBytes += r.charge.ownBytes
	s.queue.charge.sharedBytes += r.charge.sharedBytes
	s.append(r, errno, reason)
	full = s.queue.bytes >= burstReplyBytes
	s.mu.Unlock()
	s.session.recycle(r)
	return full
}

// append encodes the reply to r. The caller holds mu.
func (s *stream) append(r *request, errno wire.Errno, reason string) {
	q := &s.queue
	before := len(q.small)
	switch {
	case errno != 0 && s.structured:
		q.small = appendErrorChunk(q.small, r.Cookie, errno, reason)
	case errno != 0 || r.Command != wire.CmdRead && r.Command != wire.CmdBlockStatus:
		q.small = wire.AppendSimpleReply(q.small, errno, r.Cookie)
	default:
		q.small = s.appendDataHeader(q.small, r)
		s.appendPayload(r)
	}
	q.bytes += len(q.small) - before
}

// appendDataHeader encodes what precedes the payload of a successful READ or BLOCK_STATUS.
func (s *stream) appendDataHeader(dst []byte, r *request) []byte {
	length := uint32(len(r.payload))
	switch {
	case !s.structured:
		return wire.AppendSimpleReply(dst, 0, r.Cookie)
	case length == 0:
		return wire.Chunk{Flags: wire.ChunkDone, Type: wire.ChunkNone, Cookie: r.Cookie}.Append(dst)
	case r.Command == wire.CmdBlockStatus:
		return wire.Chunk{Flags: wire.ChunkDone, Type: wire.ChunkBlockStatus, Cookie: r.Cookie, Length: length}.Append(dst)
	}
	dst = wire.Chunk{
		Flags: wire.ChunkDone, Type: wire.ChunkOffsetData, Cookie: r.Cookie, Length: length + wire.ChunkOffsetBytes,
	}.Append(dst)
	return binary.BigEndian.AppendUint64(dst, r.Offset)
}

// appendPayload queues the data of r, copied if it is small.
func (s *stream) appendPayload(r *request) {
	q := &s.queue
	if len(r.payload) < copyBytes && q.bytes < copyQueueBytes {
		q.small = append(q.small, r.payload...)
		return
	}
	q.large = append(q.large, largePayload{after: len(q.small), data: r.payload, buffer: r.buffer})
	q.bytes += len(r.payload)
	r.buffer = nil // the batch's now
}

// appendErrorChunk encodes the structured form of an error, which is its request's only reply.
func appendErrorChunk(dst []byte, cookie uint64, errno wire.Errno, reason string) []byte {
	reason = strings.ReplaceAll(reason[:min(len(reason), maxReasonBytes)], "\x00", "")
	reason = strings.ToValidUTF8(reason, "")
	dst = wire.Chunk{
		Flags: wire.ChunkDone, Type: wire.ChunkError, Cookie: cookie, Length: wire.ChunkErrorBytes + uint32(len(reason)),
	}.Append(dst)
	dst = binary.BigEndian.AppendUint32(dst, uint32(errno))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(reason)))
	return append(dst, reason...)
}

// Flush sends what is queued, as far as that goes without blocking.
func (s *stream) Flush() {
	if !s.claim() {
		return
	}
	if s.socket == nil {
		s.handOver()
		return
	}
	s.send(sendRounds, false)
}

// flushFromReader is Flush for the goroutine that reads the same connection. Where there is no non-blocking path it may
// block, because that delays only the client that does not read.
func (s *stream) flushFromReader() {
	if s.socket != nil {
		s.Flush()
		return
	}
	if !s.claim() {
		return
	}
	if s.active.bytes > inlineBlockingBytes {
		s.handOver()
		return
	}
	s.send(sendRounds, true)
}

// claim takes the sending side and moves the queue there. It returns false if there is nothing to do, or somebody else
// is at it: that one sends what has been queued here as well.
func (s *stream) claim() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sending || s.dead || s.queue.empty() {
		return false
	}
	s.sending = true
	s.swap()
	return true
}

// swap makes the queue active. The caller holds mu and owns sending.
func (s *stream) swap() {
	s.active, s.queue = s.queue, s.active
	s.vector.load(&s.active)
}

// send sends active and then what has been queued meanwhile, for at most the given number of rounds (none means no
// limit). The caller owns sending; send passes it on to writeLoop or gives it up.
func (s *stream) send(rounds int, mayBlock bool) {
	for round := 1; ; round++ {
		switch err := s.transmit(mayBlock); {
		case errors.Is(err, errWouldBlock):
			s.handOver()
			return
		case err != nil:
			s.session.fail("send", err)
			s.abandon()
			s.giveUpSending()
			return
		}
		s.retire(&s.active)
		if !s.nextRound() {
			return
		}
		if round == rounds {
			s.handOver()
			return
		}
	}
}

// nextRound makes active what has been queued meanwhile, or gives the sending side up if there is nothing.
func (s *stream) nextRound() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dead && !s.queue.empty() {
		s.swap()
		return true
	}
	s.sending = false
	s.signalIdle()
	return false
}

// handOver passes the sending side to writeLoop. On a dead stream writeLoop may have ended, so what is active is
// dropped here.
func (s *stream) handOver() {
	s.mu.Lock()
	dead := s.dead
	if !dead {
		s.wake <- struct{}{} // has room: only the one owner of sending gets here
	}
	s.mu.Unlock()
	if dead {
		s.giveUpSending()
	}
}

// giveUpSending drops what is active on a dead stream.
func (s *stream) giveUpSending() {
	s.retire(&s.active)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sending = false
	s.signalIdle()
}

// writeLoop sends what inline sends could not. It owns the right to block on the socket; handOver wakes it; it ends
// when stop is closed.
func (s *stream) writeLoop(stop <-chan struct{}) {
	for {
		select {
		case <-s.wake:
			s.send(0, true)
		case <-stop:
			return
		}
	}
}

// retire releases what a batch that left (or never will) refers to.
func (s *stream) retire(b *batch) {
	for i := range b.large {
		s.session.server.buffers.giveBack(b.large[i].buffer)
		b.large[i] = largePayload{}
	}
	s.session.ledger.refund(b.charge)
	b.charge = charge{}
	b.large = b.large[:0]
	b.bytes = 0
	b.small = b.small[:0]
	if cap(b.small) > keepBytes {
		b.small = nil
	}
}

// abandon makes the stream dead: what is queued is dropped, and so will be what is completed later.
func (s *stream) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
	s.retire(&s.queue)
	s.signalIdle()
}

// takeBack reclaims a handover that writeLoop, which has ended, will not see.
func (s *stream) takeBack() {
	select {
	case <-s.wake:
		s.giveUpSending()
	default:
	}
}

// awaitIdle returns a channel that is closed when all the submitted requests have been completed and, unless the
// stream is dead by then, answered.
func (s *stream) awaitIdle(submitted uint64) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.submitted = submitted
	idle := make(chan struct{})
	s.idle = idle
	s.signalIdle()
	return idle
}

// signalIdle closes idle when it is time. The caller holds mu.
func (s *stream) signalIdle() {
	if s.idle == nil || s.completed != s.submitted || s.sending {
		return
	}
	if s.dead || s.queue.empty() {
		close(s.idle)
		s.idle = nil
	}
}
