package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"duet/nbd/internal/wire"
	"duet/nbd/nbdtest"
)

// fuzzConfig is small, so that bounds are met soon, and quick to give up on what a fuzzer leaves half said.
func fuzzConfig() Config {
	return Config{ReservedBytes: 64 << 10, NegotiationTimeout: testTimeout, StallTimeout: testTimeout}
}

// converse sends p to a server and returns all that it says until it closes, having checked that nothing is left behind.
func converse(t *testing.T, s *Server, p []byte) []byte {
	t.Helper()
	client, server := net.Pipe()
	s.ServeConn(server)
	heard := make(chan []byte)
	go func() {
		var b bytes.Buffer
		if _, err := b.ReadFrom(client); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
		heard <- b.Bytes()
	}()
	if err := client.SetWriteDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	// A server that has had enough closes, so a failed write is no surprise.
	if _, err := client.Write(p); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	if held := s.Stats().InFlightBytes; held > s.cfg.ReservedBytes+s.cfg.ConnectionBytes {
		t.Errorf("%d bytes in flight", held)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	said := <-heard
	closeServer(t, s)
	if held := s.Stats().InFlightBytes; held != 0 {
		t.Errorf("%d bytes are still charged", held)
	}
	return said
}

// FuzzNegotiation: whatever a client says from the first byte on, the server survives and keeps nothing of it.
func FuzzNegotiation(f *testing.F) {
	for _, h := range handshakes {
		f.Add(bytes.Join(h.steps, nil))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := Start(directory{{Name: "r0", Device: nbdtest.NewMemory(64 << 10)}}, fuzzConfig())
		if err != nil {
			t.Fatal(err)
		}
		said := converse(t, s, p)
		if len(said) < wire.GreetingBytes && len(p) > 0 {
			t.Errorf("greeted with %x", said)
		}
	})
}

// FuzzTransmission: whatever a client requests, every reply is well formed, none is a reply to nothing, and the server
// keeps nothing.
func FuzzTransmission(f *testing.F) {
	for _, c := range illegal {
		f.Add(c.request.Append(nil))
	}
	for _, c := range legal {
		f.Add(append(c.request.Append(nil), 1, 2, 3))
	}
	f.Add(append(wire.Request{Command: wire.CmdWrite, Length: 3}.Append(nil), 1, 2, 3))
	f.Add(bytes.Repeat(wire.Request{Command: wire.CmdRead, Length: 60 << 10}.Append(nil), 9))
	head := opening(option(wire.OptStructuredReply), option(wire.OptSetMetaContext, metaData("", wire.BaseAllocation)...))
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := Start(directory{{Name: "r0", Device: nbdtest.NewMemory(64 << 10)}}, fuzzConfig())
		if err != nil {
			t.Fatal(err)
		}
		said := converse(t, s, append(bytes.Clone(head), p...))
		ack := wire.OptionReplyHeader{Option: wire.OptGo, Type: wire.RepAck}.Append(nil)
		at := bytes.Index(said, ack)
		if at < 0 {
			return // closed before the negotiation was over
		}
		replies := countReplies(t, said[at+len(ack):])
		if most := len(p) / wire.RequestBytes; replies > most {
			t.Errorf("%d replies to at most %d requests", replies, most)
		}
	})
}

// countReplies walks through the replies of a structured session, the last of which may be cut off.
func countReplies(t *testing.T, p []byte) (count int) {
	t.Helper()
	for len(p) >= wire.ChunkHeaderBytes {
		size := wire.SimpleReplyBytes
		switch magic := binary.BigEndian.Uint32(p); magic {
		case wire.MagicSimpleReply:
			if errno := binary.BigEndian.Uint32(p[4:]); errno != 0 {
				t.Errorf("error %d in a simple reply", errno)
			}
		case wire.MagicStructuredReply:
			size = wire.ChunkHeaderBytes + int(wire.DecodeChunk(p).Length)
		default:
			t.Fatalf("reply opens with %#x", magic)
		}
		p = p[min(size, len(p)):]
		count++
	}
	return count
}

// FuzzOptions: no option's data makes its parser panic or accept what it could not have meant.
func FuzzOptions(f *testing.F) {
	f.Add(goData("r0", wire.InfoName, wire.InfoBlockSize))
	f.Add(metaData("r0", "base:allocation", "x-:"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		if r, err := parseInfoRequest(p); err == nil && !bytes.Equal(goData(r.name, r.wants...), p) {
			t.Errorf("%x was taken for %+v", p, r)
		}
		if r, err := parseMetaRequest(p); err == nil && len(r.queries) < 256 && !bytes.Equal(metaData(r.name, r.queries...), p) {
			t.Errorf("%x was taken for %+v", p, r)
		}
	})
}
