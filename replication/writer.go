package replication

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// stagingBytes is how much is written at once to a connection that has no vectored write: several TLS records.
	stagingBytes = 64 << 10
	// directBytes is the smallest piece that such a connection gets without a copy.
	directBytes = 16 << 10
	// senderRounds bounds how often a caller of Flush sends what others appended meanwhile.
	senderRounds = 4
)

// errWriterStalled is wrapped by the failure of a writer whose peer takes nothing any more.
var errWriterStalled = errors.New("the peer takes no data")

// frameWriter sends the frames of one connection. Any number of goroutines append and flush; frames go out whole and in
// the order in which they were appended.
//
// Neither append nor Flush ever waits for the peer. Flush tries to send on the caller's goroutine, which saves a
// hand-over on a socket that has room; what does not fit, and everything on a connection that is no plain socket (TLS),
// is left to the writer's loop. At any time at most one goroutine, the sender, touches the socket; it alone owns the
// batch named active.
//
// A payload of up to copiedPayloadBytes is copied by append. A larger one is referenced, and must not change, until the peer
// can have received all of it (an answer to the frame proves that) or close has returned.
type frameWriter struct {
	conn    net.Conn
	socket  *vectorSocket // nil: only the loop sends
	stall   time.Duration // without progress for so long the writer fails
	failed  func(error)
	staging []byte // for a connection without socket

	pieces [maxVectors][]byte // the sender's
	active *frameBatch        // the sender's

	mu       sync.Mutex
	changed  sync.Cond   // sender, turn, failure or closed has changed
	pending  *frameBatch // appended, not taken by a sender
	flushed  bool        // pending is to be sent, not just kept
	unsent   int         // bytes of active, as of the sender's last look
	sending  bool        // there is a sender
	turn     bool        // the sender is the loop
	drainers int         // who waits for the end of the sending
	failure  error
	closed   bool
	meter    linkMeter // fed by the loop

	done chan struct{} // closed when the loop has ended
}

// newFrameWriter starts a writer on conn, which it owns from now on as far as writing and closing go. When sending fails,
// or the peer takes nothing for stall, failed is called once, from the writer's loop; it must neither block nor call
// close. It is not called after close has returned, nor for what close itself causes.
func newFrameWriter(conn net.Conn, stall time.Duration, failed func(error)) *frameWriter {
	w := &frameWriter{
		conn: conn, socket: newVectorSocket(conn), stall: stall, failed: failed,
		active: &frameBatch{}, pending: &frameBatch{}, done: make(chan struct{}),
	}
	w.changed.L = &w.mu
	if w.socket == nil {
		w.staging = make([]byte, 0, stagingBytes)
	}
	go w.loop()
	return w
}

// append queues a frame; Flush sends it. It sets h.PayloadLength; h.PayloadCRC is the caller's to set, so that a
// payload for several peers is summed up once. On a writer that has failed or is closed it does nothing.
func (w *frameWriter) append(h *Header, payload []byte) {
	h.PayloadLength = uint32(len(payload))
	w.mu.Lock()
	if w.failure == nil && !w.closed {
		w.pending.add(h, payload)
	}
	w.mu.Unlock()
}

// Flush sees to it that everything appended before the call is sent.
func (w *frameWriter) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending.bytes == 0 {
		return
	}
	w.flushed = true
	if w.sending {
		return // the sender looks again before it ends
	}
	w.sending = true
	for round := 0; w.socket != nil && round < senderRounds; round++ {
		w.takePendingLocked()
		w.mu.Unlock()
		complete, err := w.sendNow()
		w.mu.Lock()
		w.failLocked(err)
		if !complete {
			break
		}
		if w.restLocked() {
			return
		}
	}
	w.turn = true
	w.changed.Broadcast()
}

// takePendingLocked gives the sender, whose active batch is empty, what was appended.
func (w *frameWriter) takePendingLocked() {
	w.active, w.pending = w.pending, w.active
	w.unsent, w.flushed = w.active.bytes, false
}

// restLocked ends the sender's work if nothing is left that was flushed.
func (w *frameWriter) restLocked() bool {
	w.active.reset()
	w.unsent = 0
	if w.flushed && w.failure == nil && !w.closed {
		return false
	}
	w.sending, w.turn = false, false
	if w.failure != nil || w.closed || w.drainers > 0 {
		w.changed.Broadcast() // else it would wake the loop after every frame, for nothing
	}
	return true
}

// failLocked remembers the first error; the loop reports it.
func (w *frameWriter) failLocked(err error) {
	if err == nil || w.failure != nil {
		return
	}
	w.failure = err
	w.pending.reset()
	w.changed.Broadcast()
}

// sendNow sends what the socket takes without waiting and reports whether that was all of the active batch. An error
// is for the loop to report, which is why it counts as incomplete.
func (w *frameWriter) sendNow() (complete bool, err error) {
	for w.active.bytes > 0 {
		pieces := w.active.pieces(w.pieces[:0])
		n, err := w.socket.write(pieces, false)
		w.active.consume(n)
		short := n < totalBytes(pieces)
		clear(pieces)
		if err != nil || short {
			return false, err
		}
	}
	return true, nil
}

func totalBytes(pieces [][]byte) int {
	total := 0
	for _, piece := range pieces {
		total += len(piece)
	}
	return total
}

// loop is the sender when it is its turn. Flush wakes it when it could not send everything at once; a failure or close ends
// it. Before it ends it drops all payloads and reports the failure.
func (w *frameWriter) loop() {
	defer close(w.done)
	w.mu.Lock()
	for {
		for !w.turn && (w.sending || w.failure == nil && !w.closed) {
			w.changed.Wait()
		}
		if w.failure != nil || w.closed {
			break
		}
		if w.active.bytes == 0 {
			w.takePendingLocked()
		}
		w.mu.Unlock()
		err := w.sendAll()
		w.mu.Lock()
		w.failLocked(err)
		w.restLocked()
	}
	w.active.reset()
	w.pending.reset()
	w.sending, w.turn, w.unsent = false, false, 0
	err := w.failure
	report := err != nil && !w.closed
	w.changed.Broadcast()
	w.mu.Unlock()
	if report {
		w.failed(err)
	}
}

// sendAll sends the active batch, waiting for the peer as long as there is progress.
func (w *frameWriter) sendAll() error {
	for w.active.bytes > 0 {
		if err := w.conn.SetWriteDeadline(time.Now().Add(w.stall)); err != nil {
			return err
		}
		began := time.Now()
		n, err := w.sendSome()
		w.active.consume(n)
		w.mu.Lock()
		w.meter.add(n, time.Since(began))
		w.unsent = w.active.bytes
		w.mu.Unlock()
		if errors.Is(err, os.ErrDeadlineExceeded) && n == 0 {
			return fmt.Errorf("%w: none of %d bytes in %v", errWriterStalled, w.active.bytes, w.stall)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	// The deadline must not outlive the loop's turn: Flush sends without one.
	return w.conn.SetWriteDeadline(time.Time{})
}

// sendSome waits until the connection has taken a part of the active batch.
func (w *frameWriter) sendSome() (int, error) {
	pieces := w.active.pieces(w.pieces[:0])
	defer clear(pieces)
	if w.socket != nil {
		return w.socket.write(pieces, true)
	}
	if len(pieces[0]) >= directBytes {
		return w.conn.Write(pieces[0][:min(len(pieces[0]), stagingBytes)])
	}
	w.staging = w.staging[:0]
	for _, piece := range pieces {
		w.staging = append(w.staging, piece[:min(len(piece), stagingBytes-len(w.staging))]...)
	}
	return w.conn.Write(w.staging)
}

// queuedBytes is what was appended and not taken by the connection yet.
func (w *frameWriter) queuedBytes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pending.bytes + w.unsent
}

// linkRate is how many bytes per second the connection takes; 0 if it never had to be waited for.
func (w *frameWriter) linkRate() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.meter.rate
}

// drain waits until everything that was flushed is sent and reports whether that happened within the limit. It is for a
// last word before close.
func (w *frameWriter) drain(limit time.Duration) bool {
	expired := false
	timer := time.AfterFunc(limit, func() {
		w.mu.Lock()
		expired = true
		w.mu.Unlock()
		w.changed.Broadcast()
	})
	defer timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drainers++
	defer func() { w.drainers-- }()
	for w.sending && w.failure == nil && !w.closed && !expired {
		w.changed.Wait()
	}
	return !w.sending && w.failure == nil && !w.closed
}

// close closes the connection and waits for the loop and for a sender. After it nothing refers to a payload. What was
// not sent yet is lost. It may be called more than once.
func (w *frameWriter) close() error {
	w.mu.Lock()
	first := !w.closed
	w.closed = true
	w.mu.Unlock()
	w.changed.Broadcast()
	var err error
	if first {
		err = closeHard(w.conn)
	}
	<-w.done
	return err
}

// closeHard closes conn without waiting for the peer. A TLS connection would first try to send its farewell for seconds,
// into a socket that may be full; closing the socket under it prevents that.
func closeHard(conn net.Conn) error {
	inner := conn
	for {
		wrapper, ok := inner.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		inner = wrapper.NetConn()
	}
	err := inner.Close()
	if inner != conn {
		// The wrapper finds its socket closed; whatever it says about that is no news.
		if second := conn.Close(); second != nil && !errors.Is(second, net.ErrClosed) && !errors.Is(second, io.ErrClosedPipe) {
			err = errors.Join(err, second)
		}
	}
	return err
}
