package replication

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// writerConns makes a connected pair of every kind that a frameWriter treats differently.
var writerConns = map[string]func(t testing.TB) (here, there net.Conn){
	"tcp": tcpConns,
	"unix": func(t testing.TB) (net.Conn, net.Conn) {
		return acceptedConns(t, "unix", filepath.Join(t.TempDir(), "s"))
	},
	"pipe": func(testing.TB) (net.Conn, net.Conn) { return net.Pipe() },
	"tls":  tlsConns,
	"wrapped tls": func(t testing.TB) (net.Conn, net.Conn) {
		here, there := tlsConns(t)
		return securedWrapper{struct{ net.Conn }{here}}, there
	},
	"wrapped tcp": func(t testing.TB) (net.Conn, net.Conn) {
		here, there := tcpConns(t)
		return plainWrapper{here}, there
	},
}

// plainWrapper is a wrapper like that of an unencrypted multiplexed connection.
type plainWrapper struct{ net.Conn }

func (p plainWrapper) PlainConn() (net.Conn, bool) { return p.Conn, true }

// securedWrapper is a wrapper like that of a multiplexed connection with TLS: the way to the socket is closed.
type securedWrapper struct{ net.Conn }

func (s securedWrapper) PlainConn() (net.Conn, bool) { return nil, false }
func (s securedWrapper) NetConn() net.Conn           { return s.Conn }

func tcpConns(t testing.TB) (here, there net.Conn) { return acceptedConns(t, "tcp", "127.0.0.1:0") }

func acceptedConns(t testing.TB, network, address string) (here, there net.Conn) {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, listener)
	if here, err = net.Dial(network, listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if there, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	return here, there
}

func tlsConns(t testing.TB) (here, there net.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"peer"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	client, server := tcpConns(t)
	secured := tls.Client(client, &tls.Config{RootCAs: roots, ServerName: "peer"})
	accepted := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	handshake := make(chan error, 1)
	go func() { handshake <- accepted.Handshake() }()
	if err := errors.Join(secured.Handshake(), <-handshake); err != nil {
		t.Fatal(err)
	}
	return secured, accepted
}

func mustClose(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// sinkFrames reads frames from conn until it ends, checks every payload and passes the headers on.
func sinkFrames(conn net.Conn, seen func(h *Header, payload []byte) error) error {
	in := newFrameReader(conn, 64<<10)
	payload := make([]byte, 8<<20)
	var h Header
	for {
		if err := in.header(&h); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := in.payload(&h, payload[:h.PayloadLength]); err != nil {
			return err
		}
		if err := seen(&h, payload[:h.PayloadLength]); err != nil {
			return err
		}
	}
}

func neverFails(t testing.TB) func(error) {
	return func(err error) { t.Errorf("writer failed: %v", err) }
}

func dataFrame(volume int, seq uint64, payload []byte) *Header {
	return &Header{Type: FrameData, Volume: uint16(volume), Seq: seq, Length: uint64(len(payload)), PayloadCRC: payloadChecksum(payload)}
}

// TestWriterKeepsFramesWholeAndOrdered lets goroutines of every payload size append and flush at the same time.
func TestWriterKeepsFramesWholeAndOrdered(t *testing.T) {
	sizes := []int{1, copiedPayloadBytes, copiedPayloadBytes + 1, 4096, 40000, 3 << 20}
	const perProducer = 40
	for kind, connect := range writerConns {
		t.Run(kind, func(t *testing.T) {
			here, there := connect(t)
			defer mustClose(t, there)
			w := newFrameWriter(here, time.Minute, neverFails(t))
			next := make([]uint64, len(sizes))
			received, total := 0, len(sizes)*perProducer
			all := make(chan struct{})
			sink := make(chan error, 1)
			go func() {
				sink <- sinkFrames(there, func(h *Header, _ []byte) error {
					if h.Seq != next[h.Volume] {
						return fmt.Errorf("producer %d: frame %d came where %d was due", h.Volume, h.Seq, next[h.Volume])
					}
					next[h.Volume]++
					if received++; received == total {
						close(all)
					}
					return nil
				})
			}()
			var producers sync.WaitGroup
			for producer, size := range sizes {
				producers.Go(func() {
					payload := bytes.Repeat([]byte{byte(producer + 1)}, size)
					for seq := range uint64(perProducer) {
						w.append(dataFrame(producer, seq, payload), payload)
						if seq%3 != 1 {
							w.Flush()
						}
					}
				})
			}
			producers.Wait()
			select {
			case <-all:
			case err := <-sink:
				t.Fatalf("after %d of %d frames: %v", received, total, err)
			case <-time.After(time.Minute):
				t.Fatal("frames are missing after a minute")
			}
			if !w.drain(time.Minute) || w.queuedBytes() != 0 {
				t.Errorf("%d bytes queued after everything arrived", w.queuedBytes())
			}
			if err := w.close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

// TestWriterNeverWaitsForThePeer fills the connection: append and Flush return all the same, and nothing is lost.
func TestWriterNeverWaitsForThePeer(t *testing.T) {
	for kind, connect := range writerConns {
		t.Run(kind, func(t *testing.T) {
			here, there := connect(t)
			defer mustClose(t, there)
			w := newFrameWriter(here, time.Minute, neverFails(t))
			payload := bytes.Repeat([]byte{7}, 1<<20)
			const frames = 32
			for seq := range uint64(frames) {
				w.append(dataFrame(0, seq, payload), payload)
				w.Flush()
			}
			if w.queuedBytes() == 0 || w.drain(time.Millisecond) {
				t.Error("nothing is queued although nobody reads")
			}
			arrived := errors.New("all arrived")
			err := sinkFrames(there, func(h *Header, _ []byte) error {
				if h.Seq == frames-1 {
					return arrived
				}
				return nil
			})
			if !errors.Is(err, arrived) {
				t.Errorf("sink: %v", err)
			}
			if err := w.close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

// TestWriterSendsOnlyWhatWasFlushed shows that append alone sends nothing.
func TestWriterSendsOnlyWhatWasFlushed(t *testing.T) {
	here, there := tcpConns(t)
	defer mustClose(t, there)
	w := newFrameWriter(here, time.Minute, neverFails(t))
	w.append(&Header{Type: FramePing, Seq: 1}, nil)
	if got := w.queuedBytes(); got != HeaderBytes {
		t.Errorf("%d bytes queued, want one header", got)
	}
	w.Flush()
	if got := w.queuedBytes(); got != 0 {
		t.Errorf("%d bytes queued after a flush into an empty socket", got)
	}
	w.append(&Header{Type: FramePing, Seq: 2}, nil)
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	var seen []uint64
	if err := sinkFrames(there, func(h *Header, _ []byte) error { seen = append(seen, h.Seq); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 1 || seen[0] != 1 {
		t.Errorf("frames %v arrived, want just 1", seen)
	}
}

// TestWriterCloseWhileThePeerTakesNothing shows that close neither waits for the peer nor reports what it causes, and
// that it leaves no reference to a payload.
func TestWriterCloseWhileThePeerTakesNothing(t *testing.T) {
	for kind, connect := range writerConns {
		t.Run(kind, func(t *testing.T) {
			here, there := connect(t)
			defer mustClose(t, there)
			w := newFrameWriter(here, time.Hour, neverFails(t))
			payload := make([]byte, 4<<20)
			for seq := range uint64(16) {
				w.append(dataFrame(0, seq, payload), payload)
				w.Flush()
			}
			w.append(dataFrame(0, 16, payload), payload)
			var closers sync.WaitGroup
			for range 2 {
				closers.Go(func() {
					if err := w.close(); err != nil {
						t.Errorf("close: %v", err)
					}
				})
			}
			closers.Wait()
			w.append(dataFrame(0, 17, payload), payload)
			w.Flush()
			if w.queuedBytes() != 0 || w.drain(time.Millisecond) {
				t.Error("a closed writer still queues")
			}
			for _, batch := range []*frameBatch{w.active, w.pending} {
				for _, cut := range batch.cuts[:cap(batch.cuts)] {
					if cut.payload != nil {
						t.Fatal("a payload is still referenced")
					}
				}
			}
			for _, piece := range w.pieces {
				if piece != nil {
					t.Fatal("a piece of a payload is still referenced")
				}
			}
		})
	}
}

// TestWriterReportsFailureOnce covers both a lost connection and one that stalls.
func TestWriterReportsFailureOnce(t *testing.T) {
	for kind, connect := range writerConns {
		for _, stalled := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, stalled %v", kind, stalled), func(t *testing.T) {
				here, there := connect(t)
				stall := time.Minute
				if stalled {
					stall = 50 * time.Millisecond
				} else {
					mustClose(t, there)
				}
				failures := make(chan error, 16)
				w := newFrameWriter(here, stall, func(err error) { failures <- err })
				payload := make([]byte, 1<<20)
				var err error
				for seq := uint64(0); err == nil; seq++ {
					if seq < 64 || !stalled {
						w.append(dataFrame(0, seq, payload), payload)
						w.Flush()
					}
					select {
					case err = <-failures:
					case <-time.After(time.Millisecond):
					}
				}
				if errors.Is(err, errWriterStalled) != stalled {
					t.Errorf("failure is %v", err)
				}
				w.append(dataFrame(0, 0, payload), payload)
				w.Flush()
				if w.queuedBytes() != 0 {
					t.Error("a failed writer queues")
				}
				if err := w.close(); err != nil {
					t.Logf("close: %v", err) // TLS may miss the end to say farewell to
				}
				if len(failures) != 0 {
					t.Errorf("a second failure: %v", <-failures)
				}
				if stalled {
					mustClose(t, there)
				}
			})
		}
	}
}

// TestWriterAllocatesNothing covers the path of every small write.
func TestWriterAllocatesNothing(t *testing.T) {
	here, there := tcpConns(t)
	w := newFrameWriter(here, time.Minute, neverFails(t))
	defer mustClose(t, there)
	go discardBytes(there)
	payload := make([]byte, 4096)
	h := dataFrame(0, 0, payload)
	send := func() { w.append(h, payload); w.Flush() }
	for range 100 {
		send()
	}
	if allocations := testing.AllocsPerRun(200, send); allocations != 0 {
		t.Errorf("%v allocations per frame, want 0", allocations)
	}
	if err := w.close(); err != nil {
		t.Error(err)
	}
}

// discardBytes empties conn until it ends, however it ends.
func discardBytes(conn net.Conn) {
	buffer := make([]byte, 1<<20)
	for {
		if _, err := conn.Read(buffer); err != nil {
			return
		}
	}
}

func BenchmarkWriter(b *testing.B) {
	for _, size := range []int{0, 4096, 64 << 10, 1 << 20} {
		for _, kind := range []string{"tcp", "tls"} {
			b.Run(fmt.Sprintf("%s/%d", kind, size), func(b *testing.B) {
				here, there := writerConns[kind](b)
				defer mustClose(b, there)
				go discardBytes(there)
				w := newFrameWriter(here, time.Minute, neverFails(b))
				payload := make([]byte, size)
				h := dataFrame(0, 0, payload)
				b.SetBytes(int64(HeaderBytes + size))
				b.ReportAllocs()
				for b.Loop() {
					w.append(h, payload)
					w.Flush()
					if w.queuedBytes() > 8<<20 {
						w.drain(time.Minute)
					}
				}
				if err := w.close(); err != nil {
					b.Error(err)
				}
			})
		}
	}
}
