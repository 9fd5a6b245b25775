package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"duet/nbd/internal/wire"
	"duet/nbd/nbdclient"
	"duet/nbd/nbdtest"
)

func TestWriteAndReadBack(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		for _, simple := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, simple=%v", network, simple), func(t *testing.T) {
				s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(64 << 20)}}, Config{})
				client := connect(t, network, listen(t, s, network), nbdclient.Config{Simple: simple})
				writeAndRead(t, client)
				largest := bytes.Repeat([]byte("duet"), wire.MaxPayloadBytes/4)
				if err := client.Write(t.Context(), largest, 1); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(largest))
				if err := client.Read(t.Context(), got, 1); err != nil || !bytes.Equal(got, largest) {
					t.Fatal("the largest request", err)
				}
			})
		}
	}
}

func TestTrimZeroFlushCache(t *testing.T) {
	_, device, client := serveMemory(t, nbdclient.Config{})
	if err := client.Write(t.Context(), bytes.Repeat([]byte{1}, 64<<10), 0); err != nil {
		t.Fatal(err)
	}
	for _, r := range []nbdclient.Request{
		{Op: nbdclient.Trim, OffsetBytes: 1, LengthBytes: 4095, FUA: true},
		{Op: nbdclient.Zero, OffsetBytes: 8192, LengthBytes: 3, NoHole: true, FastZero: true},
		{Op: nbdclient.Cache, LengthBytes: 4096},
		{Op: nbdclient.Flush},
		{Op: nbdclient.Trim}, {Op: nbdclient.Zero}, {Op: nbdclient.Write}, {Op: nbdclient.Read}, // of nothing
	} {
		if err := client.Do(t.Context(), r); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	want := bytes.Repeat([]byte{1}, 64<<10)
	clear(want[1:4096])
	clear(want[8192:8195])
	if got := device.Bytes(); !bytes.Equal(got[:64<<10], want) {
		t.Error("the wrong bytes were cleared")
	}
}

// A client may have many requests in flight, and gets the answers in the order in which the device completes them.
func TestRepliesOutOfOrder(t *testing.T) {
	device := newHolding(1 << 20)
	s := startServer(t, directory{{Name: "r0", Device: device}}, Config{})
	client := connect(t, "unix", listen(t, s, "unix"), nbdclient.Config{})
	const n = 64
	var mu sync.Mutex
	var order []uint64
	all := make(chan struct{})
	for i := range uint64(n) {
		err := client.Start(t.Context(), nbdclient.Request{Op: nbdclient.Write, OffsetBytes: i, Data: []byte{1}}, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if order = append(order, i); len(order) == n {
				close(all)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	writes := make([]heldWrite, n)
	for range n {
		w := <-device.held
		writes[w.offset] = w
	}
	want := []uint64{}
	for i := n - 1; i >= 0; i-- {
		writes[i].c.Complete(nil, nil)
		want = append(want, uint64(i))
	}
	<-all
	if !slices.Equal(order, want) {
		t.Errorf("answered in the order %v", order)
	}
}

// An error of the device is the answer to that request, and the connection goes on.
func TestDeviceErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{errors.New("a plain error"), syscall.EIO},
		{fmt.Errorf("disk: %w", syscall.ENOSPC), syscall.ENOSPC},
		{syscall.EDQUOT, syscall.ENOSPC},
		{syscall.EROFS, syscall.EPERM},
		{syscall.ESHUTDOWN, syscall.ESHUTDOWN},
		{syscall.ENOTSUP, syscall.EINVAL},
		{syscall.ECHILD, syscall.EIO},
	} {
		for _, simple := range []bool{false, true} {
			device := &failing{nbdtest.NewMemory(1 << 20), c.err}
			s := startServer(t, directory{{Name: "r0", Device: device}}, Config{})
			client := connect(t, "unix", listen(t, s, "unix"), nbdclient.Config{Simple: simple})
			for _, op := range []nbdclient.Op{nbdclient.Read, nbdclient.Write} {
				err := client.Do(t.Context(), nbdclient.Request{Op: op, Data: make([]byte, 40<<10)})
				var failed *nbdclient.RequestError
				if !errors.As(err, &failed) || failed.Errno != c.want {
					t.Errorf("%v of a device that says %v: %v", op, c.err, err)
				} else if !simple && failed.Message != c.err.Error() {
					t.Errorf("message is %q", failed.Message)
				}
			}
			if err := client.Flush(t.Context()); err != nil {
				t.Errorf("the connection did not survive %v: %v", c.err, err)
			}
		}
	}
}

func TestFastZeroMaySayNotSupported(t *testing.T) {
	device := &failing{nbdtest.NewMemory(1 << 20), syscall.ENOTSUP}
	s := startServer(t, directory{{Name: "r0", Device: device}}, Config{})
	client := connect(t, "unix", listen(t, s, "unix"), nbdclient.Config{})
	err := client.Do(t.Context(), nbdclient.Request{Op: nbdclient.Zero, LengthBytes: 4096, FastZero: true})
	if !errors.Is(err, syscall.ENOTSUP) {
		t.Errorf("fast: %v", err)
	}
	err = client.Do(t.Context(), nbdclient.Request{Op: nbdclient.Zero, LengthBytes: 4096})
	if !errors.Is(err, syscall.EINVAL) {
		t.Errorf("not fast: %v", err)
	}
}

// The text of an error is bounded and legal, whatever the device says.
func TestErrorTextIsBounded(t *testing.T) {
	chunk := appendErrorChunk(nil, 1, wire.EIO, "a\x00b\xff"+string(bytes.Repeat([]byte("long"), 1000)))
	a := (&replyReader{t, chunk}).next(0)
	if text := string(a.data[wire.ChunkErrorBytes:]); len(text) > maxReasonBytes || text[:3] != "abl" {
		t.Errorf("text is %q", text)
	}
}

// A write too large to serve is read away, so that the connection can go on.
func TestOversizeWriteIsRefusedPolitely(t *testing.T) {
	s, _, _ := serveMemory(t, nbdclient.Config{})
	client, server := net.Pipe()
	s.ServeConn(server)
	closeLater(t, client)
	go func() {
		message := opening()
		message = wire.Request{Command: wire.CmdWrite, Cookie: 1, Length: wire.MaxPayloadBytes + 1}.Append(message)
		message = append(message, make([]byte, wire.MaxPayloadBytes+1)...)
		message = wire.Request{Command: wire.CmdFlush, Cookie: 2}.Append(message)
		if _, err := client.Write(message); err != nil {
			t.Error(err)
		}
	}()
	// The negotiation ends with the ACK of GO, which has no data.
	var got []byte
	ack := wire.OptionReplyHeader{Option: wire.OptGo, Type: wire.RepAck}.Append(nil)
	for !bytes.Contains(got, ack) || len(got)-bytes.Index(got, ack)-len(ack) < 2*wire.SimpleReplyBytes {
		p := make([]byte, 4096)
		n, err := readUntilClosed(client, p[:1])
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p[:n]...)
	}
	replies := replyReader{t, got[bytes.Index(got, ack)+len(ack):]}
	if a := replies.next(0); a.cookie != 1 || a.errno != wire.EINVAL {
		t.Errorf("reply %+v", a)
	}
	if a := replies.next(0); a.cookie != 2 || a.errno != 0 {
		t.Errorf("then %+v", a)
	}
}

// Structured replies: one data chunk for a READ of any size, DF or not, and none for a READ of nothing.
func TestStructuredReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := nbdtest.NewMemory(1 << 20)
		tp := newTape(t, startServer(t, directory{{Name: "r0", Device: device}}, Config{}))
		tp.send(opening(option(wire.OptStructuredReply)))
		if _, closed := tp.take(); closed {
			t.Fatal("the negotiation failed")
		}
		for _, r := range []wire.Request{
			{Command: wire.CmdRead, Offset: 7, Length: 100},
			{Command: wire.CmdRead, Offset: 7, Length: 65536, Flags: wire.FlagDF},
			{Command: wire.CmdRead, Length: 1 << 20, Flags: wire.FlagDF | wire.FlagFUA},
		} {
			tp.send(r.Append(nil))
			got, _ := tp.take()
			replies := replyReader{t, got}
			a := replies.next(0)
			if a.chunk != wire.ChunkOffsetData || binary.BigEndian.Uint64(a.data) != r.Offset || len(a.data) != 8+int(r.Length) ||
				len(replies.src) != 0 {
				t.Errorf("%+v: chunk %d of %d bytes, then %x", r, a.chunk, len(a.data), replies.src)
			}
		}
		tp.send(wire.Request{Command: wire.CmdRead}.Append(nil))
		got, _ := tp.take()
		if a := (&replyReader{t, got}).next(0); a.chunk != wire.ChunkNone || len(a.data) != 0 {
			t.Errorf("a READ of nothing: %+v", a)
		}
	})
}

// Garbage where a request should be loses the framing: the connection ends, the others do not notice.
func TestWrongMagicEndsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startServer(t, directory{{Name: "r0", Device: nbdtest.NewMemory(1 << 20)}}, Config{})
		bad, good := newTape(t, s), newTape(t, s)
		for _, tp := range []*tape{bad, good} {
			tp.send(opening())
			tp.take()
		}
		bad.send(bytes.Repeat([]byte("garbage"), 40))
		if got, closed := bad.take(); !closed || len(got) != 0 {
			t.Errorf("got %x, closed %v", got, closed)
		}
		good.send(wire.Request{Command: wire.CmdFlush}.Append(nil))
		if got, closed := good.take(); closed || len(got) != wire.SimpleReplyBytes {
			t.Errorf("the other connection got %x, closed %v", got, closed)
		}
	})
}

// DISC has no reply, but what is in flight is answered before the connection closes.
func TestDisconnectAnswersWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := newHolding(1 << 20)
		tp := newTape(t, startServer(t, directory{{Name: "r0", Device: device}}, Config{}))
		tp.send(opening())
		tp.take()
		message := wire.Request{Command: wire.CmdFlush, Cookie: 9}.Append(nil)
		tp.send(wire.Request{Command: wire.CmdDisc}.Append(message))
		if got, closed := tp.take(); closed || len(got) != 0 {
			t.Fatalf("got %x, closed %v before the flush was completed", got, closed)
		}
		(<-device.held).c.Complete(nil, nil)
		got, closed := tp.take()
		if a := (&replyReader{t, got}).next(0); a.cookie != 9 || !closed {
			t.Errorf("reply %+v, closed %v", a, closed)
		}
	})
}

// A client that vanishes costs nothing once its requests are completed, and its completions harm nobody.
func TestClientVanishesWithRequestsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := newHolding(1 << 20)
		s := startServer(t, directory{{Name: "r0", Device: device}}, Config{})
		tp := newTape(t, s)
		tp.send(opening())
		tp.take()
		message := wire.Request{Command: wire.CmdWrite, Length: 4096}.Append(nil)
		tp.send(append(message, make([]byte, 4096)...))
		held := <-device.held
		if err := tp.conn.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if stats := s.Stats(); stats.Connections != 1 || stats.InFlightBytes == 0 {
			t.Errorf("while the device has the request: %+v", stats)
		}
		held.c.Complete(nil, nil)
		synctest.Wait()
		if stats := s.Stats(); stats.Connections != 0 || stats.InFlightBytes != 0 {
			t.Errorf("afterwards: %+v", stats)
		}
	})
}

func TestCompletingTwicePanics(t *testing.T) {
	device := newHolding(1 << 20)
	s := startServer(t, directory{{Name: "r0", Device: device}}, Config{})
	client := connect(t, "unix", listen(t, s, "unix"), nbdclient.Config{})
	done := make(chan error, 1)
	if err := client.Start(t.Context(), nbdclient.Request{Op: nbdclient.Flush}, func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	r := (<-device.held).c.(*request)
	stream := r.stream
	r.Complete(nil, nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	(&request{stream: stream}).Complete(nil, nil)
}

func TestStats(t *testing.T) {
	s, _, client := serveMemory(t, nbdclient.Config{})
	for _, r := range []nbdclient.Request{
		{Op: nbdclient.Write, Data: make([]byte, 10)}, {Op: nbdclient.Write, Data: make([]byte, 20)},
		{Op: nbdclient.Read, Data: make([]byte, 5)}, {Op: nbdclient.Flush}, {Op: nbdclient.Trim, LengthBytes: 100},
	} {
		if err := client.Do(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Do(t.Context(), nbdclient.Request{Op: nbdclient.Read, OffsetBytes: 1 << 40, Data: make([]byte, 1)}); err == nil {
		t.Fatal("read beyond the end")
	}
	want := Counters{
		Write: CommandCounters{Requests: 2, Bytes: 30}, Read: CommandCounters{Requests: 2, Errors: 1, Bytes: 5},
		Flush: CommandCounters{Requests: 1}, Trim: CommandCounters{Requests: 1, Bytes: 100},
	}
	stats := s.Stats()
	if stats.Counters != want || stats.Connections != 1 || stats.Accepted != 1 || stats.Negotiating != 0 {
		t.Errorf("%+v", stats)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	closeServer(t, s)
	if stats := s.Stats(); stats.Counters != want || stats.Connections != 0 {
		t.Errorf("after the connection: %+v", stats)
	}
}
