package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"duet/nbd/internal/wire"
	"duet/nbd/nbdtest"
)

// tight is a configuration that is easy to exhaust.
func tight() Config {
	return Config{
		ReservedBytes: 64 << 10, ConnectionBytes: maxBufferBytes, SharedBytes: maxBufferBytes,
		NegotiationTimeout: 10 * time.Second, StallTimeout: time.Minute, PressureTimeout: 2 * time.Second,
	}
}

// A client that asks for more than it may have in flight is not read, and goes on when its requests are completed.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := newHolding(1 << 20)
		cfg := tight()
		s := startServer(t, directory{{Name: "r0", Device: device}}, cfg)
		tp := mute(t, s)
		const n = 100
		var message []byte
		for i := range uint64(n) {
			message = wire.Request{Command: wire.CmdFlush, Cookie: i}.Append(message)
		}
		// Flushes are charged 4 KiB: 16 use up the connection's own share, and the other connection has the reserve.
		s.reserve.take(cfg.SharedBytes)
		tp.send(message)
		synctest.Wait()
		if held := len(device.held); held != 16 {
			t.Errorf("%d requests in flight, want 16", held)
		}
		s.reserve.give(cfg.SharedBytes)
		for range n {
			(<-device.held).c.Complete(nil, nil)
		}
		if got, _ := tp.take(); len(got) != n*wire.SimpleReplyBytes {
			t.Errorf("%d bytes of replies", len(got))
		}
	})
}

// Replies that wait for the end of a burst hold memory that the rest of the burst may need: the burst ends then.
func TestBackPressureWithinABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, tight())
		tp := mute(t, s)
		s.reserve.take(tight().SharedBytes)
		const n = 100
		tp.send(bytes.Repeat(wire.Request{Command: wire.CmdFlush}.Append(nil), n))
		if got, _ := tp.take(); len(got) != n*wire.SimpleReplyBytes {
			t.Errorf("%d bytes of replies", len(got))
		}
		s.reserve.give(tight().SharedBytes)
	})
}

// What is in flight never exceeds the limits, and all of it comes back.
func TestLargeRequestsWaitForTheReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := newHolding(64 << 20)
		s := startServer(t, directory{{Name: "r0", Device: device}}, tight())
		tapes := []*tape{mute(t, s), mute(t, s), mute(t, s)}
		message := wire.Request{Command: wire.CmdWrite, Length: 20 << 20}.Append(nil)
		message = append(message, make([]byte, 20<<20)...)
		for _, tp := range tapes {
			tp.send(message)
		}
		synctest.Wait()
		if held, stats := len(device.held), s.Stats(); held != 1 || stats.InFlightBytes != maxBufferBytes {
			t.Errorf("%d in flight with %d bytes", held, stats.InFlightBytes)
		}
		for range tapes {
			(<-device.held).c.Complete(nil, nil)
		}
		for i, tp := range tapes {
			if got, _ := tp.take(); len(got) != wire.SimpleReplyBytes {
				t.Errorf("connection %d got %x", i, got)
			}
		}
	})
}

// A client that does not take its replies is cut off after StallTimeout, and holds no memory then.
func TestClientThatDoesNotReadIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, tight())
		deaf(t, s, bytes.Repeat(wire.Request{Command: wire.CmdRead, Length: 60 << 10}.Append(nil), 1000))
		synctest.Wait()
		if stats := s.Stats(); stats.InFlightBytes == 0 || stats.InFlightBytes > 64<<10+maxBufferBytes {
			t.Errorf("stalled with %d bytes in flight", stats.InFlightBytes)
		}
		advance(time.Minute - time.Second)
		if stats := s.Stats(); stats.Connections != 1 {
			t.Error("cut off too early")
		}
		advance(2 * time.Second)
		synctest.Wait()
		if stats := s.Stats(); stats.Connections != 0 || stats.InFlightBytes != 0 || stats.Stalled != 1 {
			t.Errorf("%+v", stats)
		}
	})
}

// A client that owes the payload it announced is cut off as well; one that is merely idle is not.
func TestClientThatOwesPayloadIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, tight())
		idle, owing := mute(t, s), mute(t, s)
		owing.send(append(wire.Request{Command: wire.CmdWrite, Length: 4096}.Append(nil), 1, 2, 3))
		advance(time.Hour)
		if _, closed := owing.take(); !closed {
			t.Error("the owing client is still there")
		}
		if _, closed := idle.take(); closed {
			t.Error("the idle client is gone")
		}
	})
}

// When others wait for the memory that a stalled client sits on, its time is short.
func TestStalledClientGivesWayUnderPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(64 << 20)}}, tight())
		large := wire.Request{Command: wire.CmdRead, Length: 20 << 20}.Append(nil)
		deaf(t, s, large)
		synctest.Wait()
		began := time.Now()
		waiting := mute(t, s)
		waiting.send(large)
		small := mute(t, s)
		small.send(wire.Request{Command: wire.CmdRead, Length: 4096}.Append(nil))
		if got, _ := small.take(); len(got) != wire.SimpleReplyBytes+4096 || !time.Now().Equal(began) {
			t.Errorf("a client within its own share got %d bytes after %v", len(got), time.Since(began))
		}
		if got, _ := waiting.take(); len(got) != 0 {
			t.Errorf("got %d bytes while the reserve is taken", len(got))
		}
		advance(4 * time.Second)
		if got, _ := waiting.take(); len(got) != wire.SimpleReplyBytes+20<<20 {
			t.Errorf("got %d bytes after %v", len(got), time.Since(began))
		}
	})
}

// A negotiation that does not end is ended.
func TestNegotiationIsBoundedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, tight())
		tp := newTape(t, s)
		tp.send([]byte{0, 0, 0, 3})
		go func() {
			for range 20 { // it says something every second, and so never seems dead
				advance(time.Second)
				if _, err := tp.conn.Write(option(wire.OptList)); err != nil {
					return
				}
			}
		}()
		advance(11 * time.Second)
		if _, closed := tp.take(); !closed {
			t.Error("still negotiating")
		}
	})
}

func TestNegotiationIsBoundedInOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, tight())
		tp := newTape(t, s)
		tp.send(append([]byte{0, 0, 0, 3}, bytes.Repeat(option(wire.OptStructuredReply), maxOptions+1)...))
		if got, closed := tp.take(); !closed || len(got) != wire.GreetingBytes+maxOptions*wire.OptionReplyHeaderBytes {
			t.Errorf("closed %v after %d bytes", closed, len(got))
		}
	})
}

// Connections that say nothing can't shut out those that have something to say.
func TestSilentConnectionsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := tight()
		cfg.MaxConnections = 4
		s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, cfg)
		served := mute(t, s)
		silent := []*tape{newTape(t, s), newTape(t, s), newTape(t, s)}
		late := mute(t, s)
		for i, tp := range silent {
			if _, closed := tp.take(); closed != (i == 0) {
				t.Errorf("silent connection %d: closed %v", i, closed)
			}
		}
		mute(t, s)
		mute(t, s)
		// All four transmit now: there is no room to make.
		if _, closed := newTape(t, s).take(); !closed {
			t.Error("a fifth connection was admitted")
		}
		for _, tp := range []*tape{served, late} {
			if _, closed := tp.take(); closed {
				t.Error("a working connection was closed")
			}
		}
		if stats := s.Stats(); stats.Refused != 4 || stats.Connections != 4 {
			t.Errorf("%+v", stats)
		}
	})
}

// A revoked export's connections close at once, and what is completed afterwards is neither sent nor leaked.
func TestRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := newHolding(1 << 20)
		revoked := make(chan struct{})
		s := startServer(t, directory{
			{Name: "r0", Device: device, Revoked: revoked}, {Name: "r1", Device: nbdtest.NewMemory(1 << 20)},
		}, Config{})
		tp := mute(t, s)
		tp.send(wire.Request{Command: wire.CmdFlush}.Append(nil))
		held := <-device.held
		close(revoked)
		held.c.Complete(nil, nil) // races the connection's end, and must lose
		if got, closed := tp.take(); !closed || len(got) != 0 {
			t.Errorf("got %x, closed %v", got, closed)
		}
		if stats := s.Stats(); stats.Connections != 0 || stats.Revoked != 1 {
			t.Errorf("%+v", stats)
		}
	})
}

// What the kernel has taken of a reply, but not delivered, does not arrive after the revocation either.
func TestRevocationResetsConnection(t *testing.T) {
	revoked := make(chan struct{})
	s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(64 << 20), Revoked: revoked}}, Config{})
	client := newBareClient(t, "tcp", listen(t, s, "tcp"), wire.Request{Command: wire.CmdRead, Length: 32 << 20}, 1)
	if _, err := client.conn.Write(client.requests); err != nil {
		t.Fatal(err)
	}
	// The first bytes show that the reply is being sent; the socket can't hold all of it.
	if n, err := readUntilClosed(client.conn, client.replies[:100]); n != 100 {
		t.Fatal(err)
	}
	close(revoked)
	n, err := readUntilClosed(client.conn, client.replies[100:])
	if !errors.Is(err, syscall.ECONNRESET) || n >= 32<<20-100 {
		t.Errorf("%d bytes more, then %v", n, err)
	}
}

// A handover to the writer that it does not see any more holds up nothing.
func TestHandoverAfterWriterHasEnded(t *testing.T) {
	s := startServer(t, directory{}, Config{})
	near, far := net.Pipe()
	closeLater(t, near)
	session := newSession(s, far)
	stream, err := newStream(session, &Export{}, false)
	if err != nil {
		t.Fatal(err)
	}
	session.stream = stream
	c, _ := session.ledger.tryCharge(minChargeBytes)
	stream.reply(session.newRequest(wire.Request{Command: wire.CmdFlush}, c, 0), 0, "")
	stream.Flush() // nobody listens to the wake
	session.kill()
	stream.abandon()
	stream.takeBack()
	<-stream.awaitIdle(1)
	if held := session.ledger.heldBytes(); held != 0 {
		t.Errorf("%d bytes held", held)
	}
}

// Close answers what is in flight, reads nothing more, and ends when the device does.
func TestCloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := newHolding(1 << 20)
		s := startServer(t, directory{{Name: "r0", Device: device}}, Config{})
		tp, negotiating := mute(t, s), newTape(t, s)
		tp.send(wire.Request{Command: wire.CmdFlush, Cookie: 1}.Append(nil))
		held := <-device.held
		closed := make(chan error, 1)
		go func() { closed <- s.Close(t.Context()) }()
		if _, gone := negotiating.take(); !gone {
			t.Error("a negotiation goes on")
		}
		tp.send(wire.Request{Command: wire.CmdFlush, Cookie: 2}.Append(nil))
		synctest.Wait()
		select {
		case err := <-closed:
			t.Fatal("closed with a request in flight", err)
		default:
		}
		held.c.Complete(nil, nil)
		got, _ := tp.take()
		if a := (&replyReader{t, got}).next(0); a.cookie != 1 || len(got) != wire.SimpleReplyBytes {
			t.Errorf("got %x", got)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if len(device.held) != 0 {
			t.Error("a request was read while closing")
		}
	})
}

func TestCloseGivesUpWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := newHolding(1 << 20)
		s := startServer(t, directory{{Name: "r0", Device: device}}, Config{})
		tp := mute(t, s)
		tp.send(wire.Request{Command: wire.CmdFlush}.Append(nil))
		held := <-device.held
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, closed := tp.take(); !closed {
			t.Error("the connection is still open")
		}
		held.c.Complete(nil, nil)
	})
}

// slowExtents is a device whose extents take until the context ends.
type slowExtents struct{ *nbdtest.Memory }

func (slowExtents) Extents(ctx context.Context, _, _ uint64, _ func(uint64, bool, bool) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// Lookups of extents are bounded and hold nobody else up.
func TestBlockStatusIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startServer(t, directory{{Name: "r0", Device: slowExtents{nbdtest.NewMemory(1 << 20)}}}, Config{})
		tp, other := newTape(t, s), mute(t, s)
		tp.send(opening(option(wire.OptStructuredReply), option(wire.OptSetMetaContext, metaData("", wire.BaseAllocation)...)))
		tp.take()
		tp.send(bytes.Repeat(wire.Request{Command: wire.CmdBlockStatus, Length: 4096}.Append(nil), 100))
		synctest.Wait()
		if stats := s.Stats(); stats.InFlightBytes != (statusRequests+1)*64<<10 {
			t.Errorf("%d bytes in flight", stats.InFlightBytes)
		}
		other.send(wire.Request{Command: wire.CmdFlush}.Append(nil))
		if got, _ := other.take(); len(got) != wire.SimpleReplyBytes {
			t.Errorf("the other connection got %x", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		synctest.Wait()
		if stats := s.Stats(); stats.Connections != 0 || stats.InFlightBytes != 0 {
			t.Errorf("%+v", stats)
		}
	})
}

// A lookup ends with its connection.
func TestBlockStatusOfClientThatVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startServer(t, directory{{Name: "r0", Device: slowExtents{nbdtest.NewMemory(1 << 20)}}}, Config{})
		tp := newTape(t, s)
		tp.send(opening(option(wire.OptStructuredReply), option(wire.OptSetMetaContext, metaData("", wire.BaseAllocation)...)))
		tp.take()
		tp.send(wire.Request{Command: wire.CmdBlockStatus, Length: 4096}.Append(nil))
		synctest.Wait()
		if err := tp.conn.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if stats := s.Stats(); stats.Connections != 0 || stats.BlockStatus.Errors != 1 {
			t.Errorf("%+v", stats)
		}
	})
}

func TestBlockStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := nbdtest.NewMemory(1 << 20)
		device.Write([]byte("data"), 8192, false, nil, ignored{})
		tp := newTape(t, startServer(t, directory{{Name: "r0", Device: device}}, Config{}))
		tp.send(opening(option(wire.OptStructuredReply), option(wire.OptSetMetaContext, metaData("", wire.BaseAllocation)...)))
		tp.take()
		for _, c := range []struct {
			request wire.Request
			want    []uint32 // length and state of each extent
		}{
			{wire.Request{Offset: 0, Length: 1 << 20}, []uint32{8192, 3, 4096, 0, 1<<20 - 12288, 3}},
			{wire.Request{Offset: 8191, Length: 2}, []uint32{1, 3, 1, 0}},
			{wire.Request{Offset: 8192, Length: 8192, Flags: wire.FlagReqOne}, []uint32{4096, 0}},
			{wire.Request{Offset: 100, Length: 8192 - 100, Flags: wire.FlagReqOne | wire.FlagFUA}, []uint32{8192 - 100, 3}},
		} {
			c.request.Command = wire.CmdBlockStatus
			tp.send(c.request.Append(nil))
			got, _ := tp.take()
			a := (&replyReader{t, got}).next(0)
			want := binary.BigEndian.AppendUint32(nil, allocationID)
			for _, v := range c.want {
				want = binary.BigEndian.AppendUint32(want, v)
			}
			if a.chunk != wire.ChunkBlockStatus || !bytes.Equal(a.data, want) {
				t.Errorf("%+v: chunk %d, %x, want %x", c.request, a.chunk, a.data, want)
			}
		}
	})
}

// A metadata context counts for the export name that it was selected for, and only until the next selection.
func TestContextIsBoundToItsSelection(t *testing.T) {
	for name, c := range map[string]struct {
		options [][]byte
		want    wire.Errno
	}{
		"selected": {[][]byte{option(wire.OptSetMetaContext, metaData("", wire.BaseAllocation)...)}, 0},
		"for another name": {[][]byte{option(wire.OptSetMetaContext, metaData("r0", wire.BaseAllocation)...)},
			wire.EINVAL},
		"replaced by nothing": {[][]byte{option(wire.OptSetMetaContext, metaData("", wire.BaseAllocation)...),
			option(wire.OptSetMetaContext, metaData("")...)}, wire.EINVAL},
		"replaced by a failure": {[][]byte{option(wire.OptSetMetaContext, metaData("", wire.BaseAllocation)...),
			option(wire.OptSetMetaContext, 1, 2, 3)}, wire.EINVAL},
		"only listed": {[][]byte{option(wire.OptListMetaContext, metaData("")...)}, wire.EINVAL},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tp := newTape(t, startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, Config{}))
				tp.send(opening(append([][]byte{option(wire.OptStructuredReply)}, c.options...)...))
				tp.take()
				tp.send(wire.Request{Command: wire.CmdBlockStatus, Length: 4096}.Append(nil))
				got, _ := tp.take()
				if a := (&replyReader{t, got}).next(0); a.errno != c.want {
					t.Errorf("%v, want %v", a.errno, c.want)
				}
			})
		})
	}
}

// The reply stays within its bounds whatever the device says.
func TestExtents(t *testing.T) {
	room := make([]byte, wire.ContextIDBytes+3*wire.ExtentBytes)
	e := newExtents(room, 100, false)
	for i := range 10 {
		err := e.add(10, i%2 == 0, false)
		if (err != nil) != (i == 3) {
			t.Errorf("extent %d: %v", i, err)
		}
		if err != nil {
			break
		}
	}
	if e.count != 3 || len(e.dst) != len(room) {
		t.Errorf("%d extents in %d bytes", e.count, len(e.dst))
	}
	e = newExtents(room, 100, false)
	if err := e.add(1<<60, false, false); !errors.Is(err, errEnough) || e.remaining != 0 {
		t.Errorf("an extent beyond the request: %v, %d left", err, e.remaining)
	}
	if got := binary.BigEndian.Uint32(e.dst[wire.ContextIDBytes:]); got != 100 {
		t.Errorf("it was cut to %d", got)
	}
	if err := newExtentsPointer(100).add(0, true, true); err != nil {
		t.Errorf("an empty extent: %v", err)
	}
}

func newExtentsPointer(lengthBytes uint64) *extents {
	e := newExtents(make([]byte, 64), lengthBytes, false)
	return &e
}
