package nbdclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"duet/nbd/internal/wire"
)

// fakeServer is the other end of a client under test, which answers as the test says.
type fakeServer struct {
	t    *testing.T
	conn net.Conn
}

// accept negotiates like a server with structured replies and a size of 1 MiB.
func (s *fakeServer) accept() {
	s.write(wire.AppendGreeting(nil, wire.FlagFixedNewstyle|wire.FlagNoZeroes))
	s.read(wire.ClientFlagsBytes)
	for {
		header, err := wire.DecodeOptionHeader(s.read(wire.OptionHeaderBytes))
		if err != nil {
			s.t.Error(err)
			return
		}
		s.read(int(header.Length))
		if header.Option == wire.OptGo {
			info := binary.BigEndian.AppendUint16(nil, uint16(wire.InfoExport))
			info = binary.BigEndian.AppendUint64(info, 1<<20)
			info = binary.BigEndian.AppendUint16(info, uint16(wire.HasFlags|wire.CanMultiConn))
			reply := wire.OptionReplyHeader{Option: header.Option, Type: wire.RepInfo, Length: uint32(len(info))}.Append(nil)
			s.write(append(reply, info...))
		}
		s.write(wire.OptionReplyHeader{Option: header.Option, Type: wire.RepAck}.Append(nil))
		if header.Option == wire.OptGo {
			return
		}
	}
}

func (s *fakeServer) read(n int) []byte {
	p := make([]byte, n)
	if _, err := io.ReadFull(s.conn, p); err != nil {
		s.t.Error(err)
	}
	return p
}

func (s *fakeServer) write(p []byte) {
	if _, err := s.conn.Write(p); err != nil {
		s.t.Error(err)
	}
}

// request reads one request and its payload away.
func (s *fakeServer) request() wire.Request {
	r, err := wire.DecodeRequest(s.read(wire.RequestBytes))
	if err != nil {
		s.t.Error(err)
	}
	if r.Command == wire.CmdWrite {
		s.read(int(r.Length))
	}
	return r
}

// pair returns a client and the server that it talks to. It must be called in a synctest bubble.
func pair(t *testing.T, cfg Config) (*Client, *fakeServer) {
	t.Helper()
	near, far := net.Pipe()
	s := &fakeServer{t, far}
	go s.accept()
	c, err := New(t.Context(), near, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(far.Close(), c.Close()); err != nil {
			t.Error(err)
		}
	})
	return c, s
}

func TestNegotiated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t, Config{})
		if c.SizeBytes() != 1<<20 || !c.CanMultiConn() || c.ReadOnly() || c.Err() != nil {
			t.Errorf("%d bytes, %v", c.SizeBytes(), c.Err())
		}
	})
}

// A READ may be answered in pieces, in any order, some of them holes.
func TestReadInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pair(t, Config{})
		go func() {
			r := s.request()
			p := wire.Chunk{Type: wire.ChunkOffsetData, Cookie: r.Cookie, Length: 8 + 3}.Append(nil)
			p = append(binary.BigEndian.AppendUint64(p, 105), "xyz"...)
			p = wire.Chunk{Type: wire.ChunkOffsetHole, Cookie: r.Cookie, Length: 12}.Append(p)
			p = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(p, 100), 5)
			s.write(wire.Chunk{Flags: wire.ChunkDone, Type: wire.ChunkNone, Cookie: r.Cookie}.Append(p))
		}()
		p := bytes.Repeat([]byte{1}, 8)
		if err := c.Read(t.Context(), p, 100); err != nil || string(p) != "\x00\x00\x00\x00\x00xyz" {
			t.Errorf("%q, %v", p, err)
		}
	})
}

func TestErrorsAreTheRequestsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pair(t, Config{})
		go func() {
			r := s.request()
			p := wire.Chunk{Flags: wire.ChunkDone, Type: wire.ChunkError, Cookie: r.Cookie, Length: 6 + 4}.Append(nil)
			s.write(append(p, 0, 0, 0, 28, 0, 4, 'f', 'u', 'l', 'l'))
			r = s.request()
			s.write(wire.AppendSimpleReply(nil, wire.EPERM, r.Cookie))
			r = s.request()
			s.write(wire.AppendSimpleReply(nil, 0, r.Cookie))
		}()
		err := c.Write(t.Context(), make([]byte, 10), 0)
		if !errors.Is(err, syscall.ENOSPC) || err.Error() != "NBD WRITE: no space left on device: full" {
			t.Error(err)
		}
		if err := c.Trim(t.Context(), 0, 10); !errors.Is(err, syscall.EPERM) || errors.Is(err, ErrLost) {
			t.Error(err)
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// When the connection is lost everybody who waits is told, once, and so is everybody who comes later.
func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pair(t, Config{})
		var mu sync.Mutex
		told := map[int]error{}
		go func() {
			for range 10 {
				s.request()
			}
			if err := s.conn.Close(); err != nil {
				t.Error(err)
			}
		}()
		for i := range 10 {
			err := c.Start(t.Context(), Request{Op: Flush}, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				if told[i] != nil {
					t.Errorf("request %d was told twice", i)
				}
				told[i] = err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		<-c.Lost()
		synctest.Wait()
		for i := range 10 {
			if !errors.Is(told[i], ErrLost) {
				t.Errorf("request %d: %v", i, told[i])
			}
		}
		if err := c.Flush(t.Context()); !errors.Is(err, ErrLost) || !errors.Is(c.Err(), io.EOF) {
			t.Errorf("%v, %v", err, c.Err())
		}
	})
}

// At most MaxInFlight requests are in flight, and a context ends the waiting for a place without harm.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pair(t, Config{MaxInFlight: 2})
		cookies := make(chan uint64, 2)
		go func() {
			for range 2 {
				cookies <- s.request().Cookie
			}
		}()
		for range 2 {
			if err := c.Start(t.Context(), Request{Op: Flush}, func(error) {}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Start(ctx, Request{Op: Flush}, func(error) {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		for range 2 {
			s.write(wire.AppendSimpleReply(nil, 0, <-cookies))
		}
		synctest.Wait()
		if c.Err() != nil || len(c.window) != 0 {
			t.Errorf("%v, %d in flight", c.Err(), len(c.window))
		}
	})
}

// A request in flight can't be taken back, so its context ends the connection.
func TestContextEndsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pair(t, Config{})
		go s.request()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := c.Flush(ctx)
		if !errors.Is(err, ErrLost) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestNonsenseFromServerEndsConnection(t *testing.T) {
	read := func(chunk wire.Chunk, payload ...byte) func(uint64) []byte {
		return func(cookie uint64) []byte {
			chunk.Cookie += cookie
			return append(chunk.Append(nil), payload...)
		}
	}
	at := func(offset uint64, more ...byte) []byte {
		return append(binary.BigEndian.AppendUint64(nil, offset), more...)
	}
	for name, reply := range map[string]func(cookie uint64) []byte{
		"garbage":               func(uint64) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n") },
		"unknown cookie":        read(wire.Chunk{Type: wire.ChunkNone, Flags: wire.ChunkDone, Cookie: 1}),
		"too little data":       read(wire.Chunk{Type: wire.ChunkNone, Flags: wire.ChunkDone}),
		"data before the range": read(wire.Chunk{Type: wire.ChunkOffsetData, Length: 9}, at(99, 1)...),
		"data after the range":  read(wire.Chunk{Type: wire.ChunkOffsetData, Length: 17}, at(101, make([]byte, 9)...)...),
		"empty data":            read(wire.Chunk{Type: wire.ChunkOffsetData, Length: 8}, at(100)...),
		"hole after the range":  read(wire.Chunk{Type: wire.ChunkOffsetHole, Length: 12}, at(100, 0xff, 0, 0, 0)...),
		"hole of a wrong shape": read(wire.Chunk{Type: wire.ChunkOffsetHole, Length: 13}, at(100, 0, 0, 0, 1, 0)...),
		"error without number":  read(wire.Chunk{Type: wire.ChunkError, Length: 6}, 0, 0, 0, 0, 0, 0),
		"error with a lying text": read(wire.Chunk{Type: wire.ChunkError, Length: 6},
			0, 0, 0, 5, 0xff, 0xff),
		"error of absurd length": read(wire.Chunk{Type: wire.ChunkError, Length: 1 << 31}, 0, 0, 0, 5, 0, 0),
		"unknown chunk":          read(wire.Chunk{Type: 77, Length: 4}, 1, 2, 3, 4),
		"simple reply to a read": func(cookie uint64) []byte { return wire.AppendSimpleReply(nil, 0, cookie) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := pair(t, Config{})
				go func() {
					p := reply(s.request().Cookie)
					// The client may have seen enough before it has read all of it.
					if _, err := s.conn.Write(p); err != nil && !errors.Is(err, io.ErrClosedPipe) {
						t.Error(err)
					}
				}()
				if err := c.Read(t.Context(), make([]byte, 8), 100); !errors.Is(err, ErrLost) {
					t.Error(err)
				}
			})
		})
	}
}

// A server that says nothing is given up after HandshakeTimeout.
func TestHandshakeIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		began := time.Now()
		if _, err := New(t.Context(), near, Config{HandshakeTimeout: time.Second}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("took %v", took)
		}
		if err := far.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestInvalidRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t, Config{})
		for _, r := range []Request{{Op: -1}, {Op: 99}, {Op: Write, Data: make([]byte, wire.MaxPayloadBytes+1)}} {
			if err := c.Do(t.Context(), r); err == nil || errors.Is(err, ErrLost) {
				t.Errorf("%v: %v", r.Op, err)
			}
		}
	})
}
