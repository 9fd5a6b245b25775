package replication

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dataReaderBytes = 256 << 10
	ackReaderBytes  = 64 << 10
)

// errReaderStuck ends a reader that came back from an operation after the session had gone on without it.
var errReaderStuck = errors.New("the disk kept the reader")

// session is one life of the pair of connections to a peer. What was in flight when it ends is never taken up by a
// later one: its requests are handed to the control loop, and the peer comes back by a resync.
type session struct {
	resource *Resource
	volume   *Volume
	peer     string
	slot     int
	hello    hello // what the peer said of itself when the session began
	features features
	packer   packer

	dataConn, ackConn     net.Conn
	dataWriter, ackWriter *frameWriter

	lastHeard atomic.Int64 // nanoseconds since began
	began     time.Time
	paceWake  chan struct{}
	closing   chan struct{} // closed by fail
	ended     chan struct{} // closed when everything of the session has ended
	// readerGone is closed when the reader of the data connection does not come back from an operation on a disk that was
	// given up. Nobody waits for it any more: it reads nothing further when it does.
	readerGone chan struct{}
	failOnce   sync.Once
	cause      error // set before closing is closed

	sentBytes, receivedBytes atomic.Uint64

	// Guarded by Volume.mu.
	closed     bool   // nothing is sent or applied any more
	member     bool   // the peer is in the in-sync set: its answers are part of every acknowledgement
	generation uint64 // of the Primary that this node serves through the session
	// unconfirmed: the peer is a member from the session's begin on and has not shown yet that it takes this Primary's generation up.
	// Nothing is sent to it before.
	unconfirmed bool
	early       Header      // a question for a lease that came before the configuration; zero: none
	lease       heldLease   // of the peer, while this node is Primary
	leaseGone   time.Time   // since when it has run out
	promised    uint64      // by the peer, durably, as its newest BarrierAck says
	pending     pendingRing // writes that the peer has not answered
	oldest      time.Time   // since when the ring has not been empty, as the watch saw it
	reads       pendingRing // remote reads
	applying    int         // requests of the peer that are not finished here
	header      Header      // scratch of the append calls
	resync      resyncState
	metered     bool // the resync has the application's writes timed
	verify      verifySession
}

// newSession makes a session of two connections whose handshake is done.
func newSession(res *Resource, peer hello, data, ack net.Conn) *session {
	s := &session{resource: res, volume: res.volume, peer: peer.From, hello: peer, dataConn: data, ackConn: ack,
		began: time.Now(), paceWake: make(chan struct{}, 1), closing: make(chan struct{}), ended: make(chan struct{}), readerGone: make(chan struct{})}
	s.features = res.features.with(peer.Features)
	s.resync.reading, s.resync.flights = map[uint64]*request{}, map[uint64]*flight{}
	s.verify.asked = map[uint64]verifyAsk{}
	s.dataWriter = newFrameWriter(data, res.cfg.Timing.AckTimeout, s.fail)
	s.ackWriter = newFrameWriter(ack, res.cfg.Timing.PeerTimeout, s.fail)
	return s
}

// fail ends the session; only the first cause counts. It does not wait.
func (s *session) fail(cause error) {
	s.failOnce.Do(func() {
		s.cause = cause
		close(s.closing)
	})
}

// run is the session's own loop. It owns the connections and the loops on them; a failure of any, or of a
// writer, wakes it. It ends when nothing of the session runs any more, and then tells the control loop.
func (s *session) run() {
	var loops sync.WaitGroup
	reader := make(chan struct{})
	go func() {
		s.fail(s.readData())
		close(reader)
	}()
	loops.Go(func() { s.fail(s.readAcks()) })
	loops.Go(s.watch)
	loops.Go(s.pace)
	select {
	case <-s.closing:
	case <-s.resource.ctx.Done():
		s.fail(ErrClosed)
	}
	s.volume.mu.Lock()
	s.closed = true
	s.volume.mu.Unlock()
	s.closeWriter(s.dataWriter)
	s.closeWriter(s.ackWriter)
	loops.Wait()
	select {
	case <-reader:
	case <-s.readerGone:
	}
	s.drain()
	s.packer.close()
	s.volume.mu.Lock()
	s.meterLocked(false)
	s.volume.mu.Unlock()
	s.releaseResyncReads()
	s.releaseVerifyAsks()
	close(s.ended)
	s.resource.post(func() { s.resource.sessionEnded(s) })
}

func (s *session) closeWriter(w *frameWriter) {
	if err := w.close(); err != nil && !errors.Is(err, net.ErrClosed) {
		s.resource.log.Debug("close connection", "peer", s.peer, "error", err)
	}
}

// drain waits until no request of the peer is being applied here.
func (s *session) drain() {
	v := s.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	for s.applying > 0 {
		v.applied.Wait()
	}
}

// watch owns the signs of life: it sends pings and ends the session when the peer is silent, or keeps a write
// unanswered, for too long. It ends with the session.
func (s *session) watch() {
	timing := s.resource.cfg.Timing
	tick := time.NewTicker(timing.PingInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.closing:
			return
		case <-tick.C:
		}
		if silence := s.silence(); silence > timing.PeerTimeout {
			s.fail(fmt.Errorf("nothing heard of %s for %v", s.peer, silence.Round(time.Millisecond)))
			return
		}
		if err := s.ping(timing.AckTimeout); err != nil {
			s.fail(err)
			return
		}
	}
}

func (s *session) ping(limit time.Duration) error {
	v := s.volume
	v.mu.Lock()
	switch {
	case s.pending.count == 0:
		s.oldest, s.resync.watched = time.Time{}, s.pending.base
	case s.oldest.IsZero() || s.resync.watched != s.pending.base:
		s.oldest, s.resync.watched = time.Now(), s.pending.base
	case time.Since(s.oldest) > limit:
		v.mu.Unlock()
		return fmt.Errorf("%s has not answered a write for %v", s.peer, limit)
	}
	if err := s.leaseMissingLocked(); err != nil {
		v.mu.Unlock()
		return err
	}
	s.header = Header{Type: FramePing}
	s.ackWriter.append(&s.header, nil)
	v.mu.Unlock()
	s.ackWriter.Flush()
	return nil
}

// silence is how long nothing was heard of the peer.
func (s *session) silence() time.Duration {
	return time.Since(s.began) - time.Duration(s.lastHeard.Load())
}

func (s *session) heard() { s.lastHeard.Store(int64(time.Since(s.began))) }

// readAcks is the loop on the ack connection: it owns its reader, is woken by the peer, and ends with the connection.
// One pass over what has arrived completes many requests, whose replies go out together.
func (s *session) readAcks() error {
	in := newFrameReader(s.ackConn, ackReaderBytes)
	var b burst
	var h Header
	for {
		if in.buffered() < HeaderBytes {
			b.end()
		}
		if err := in.header(&h); err != nil {
			return fmt.Errorf("ack connection: %w", err)
		}
		s.heard()
		text := make([]byte, 0)
		if h.PayloadLength > 0 {
			text = make([]byte, h.PayloadLength)
			if err := in.payload(&h, text); err != nil {
				return err
			}
		}
		b.more = true // replies wait for the end of the pass
		if err := s.handleAck(&h, text, &b); err != nil {
			return err
		}
	}
}

// handleAck takes one frame of the ack connection.
func (s *session) handleAck(h *Header, text []byte, b *burst) error {
	v := s.volume
	switch h.Type {
	case FrameWriteAck:
		v.mu.Lock()
		r := s.pending.take(h.Seq)
		v.mu.Unlock()
		if r == nil {
			return fmt.Errorf("%s acknowledged write %d, which waits for nothing", s.peer, h.Seq)
		}
		if !sabotageAckEarly {
			v.legDone(r, b)
		}
	case FrameWriteFail:
		return fmt.Errorf("the disk of %s failed: %s", s.peer, text)
	case FrameBarrierAck:
		if h.Flags&FlagFailed != 0 {
			return fmt.Errorf("flush failed on %s: %s", s.peer, text)
		}
		v.mu.Lock()
		s.promised = max(s.promised, min(h.Generation, v.generation))
		send := v.barrierAnsweredLocked(s, h.Epoch)
		v.mu.Unlock()
		flushWriters(send)
	case FrameResyncWritten:
		return s.sourceWritten(h, text)
	case FramePing:
		v.mu.Lock()
		s.header = Header{Type: FramePong, Seq: h.Seq}
		s.ackWriter.append(&s.header, nil)
		v.mu.Unlock()
		b.Defer(s.ackWriter)
	case FramePong:
	case FrameLeaseAsk:
		s.leaseAsked(h, b)
	case FrameLeaseGrant:
		s.leaseGranted(h, b)
	case FrameVerifyMarked:
		s.resource.post(func() { s.resource.verifyMarked(s) })
	case FrameReject:
		var reject rejectMessage
		if err := decodeMessage(h.Type, text, &reject); err != nil {
			return err
		}
		return fmt.Errorf("%s has promised generation %d: %s", s.peer, reject.Promised, reject.Reason)
	default:
		return fmt.Errorf("%s sent %s on the ack connection", s.peer, h.Type)
	}
	return nil
}

// sendRequestLocked sends r's leg to the peer.
func (s *session) sendRequestLocked(r *request) {
	s.header = Header{Generation: s.volume.generation, Offset: r.offsetBytes, Length: r.lengthBytes, Epoch: r.epoch,
		Seq: s.pending.add(r)}
	if r.fua {
		s.header.Flags = FlagFUA
	}
	switch r.op {
	case opWrite:
		if r.payloadCRC == 0 {
			r.payloadCRC = payloadChecksum(r.p)
		}
		s.header.Type, s.header.PayloadCRC = FrameData, r.payloadCRC
		s.dataWriter.append(&s.header, r.p)
		return
	case opTrim:
		s.header.Type = FrameTrim
	default:
		s.header.Type = FrameZero
	}
	s.dataWriter.append(&s.header, nil)
}

// sendReadLocked asks the peer for r's range.
func (s *session) sendReadLocked(r *request) {
	s.header = Header{Type: FrameRead, Generation: s.volume.generation, Offset: r.offsetBytes, Length: r.lengthBytes,
		Seq: s.reads.add(r)}
	s.dataWriter.append(&s.header, nil)
}

// memberLocked reports whether the peer can serve reads.
func (s *session) memberLocked() bool { return s.member && !s.closed }

// sendMessage sends one of the rare frames with a JSON payload.
func (s *session) sendMessage(h Header, m message) error {
	payload, err := encodeMessage(h.Type, m)
	if err != nil {
		return err
	}
	s.sendFrame(h, payload)
	return nil
}

// sendFrame sends a frame on the data connection; payload must not change any more.
func (s *session) sendFrame(h Header, payload []byte) {
	h.setPayload(payload)
	s.volume.mu.Lock()
	s.header = h
	s.dataWriter.append(&s.header, payload)
	s.volume.mu.Unlock()
	s.dataWriter.Flush()
}
