package nbd

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"
	"testing/synctest"

	"duet/nbd/internal/wire"
	"duet/nbd/nbdtest"
)

const checkedSize = 64 << 20

// illegal is every kind of request that must be turned down, and the error that the specification demands.
var illegal = []struct {
	name    string
	request wire.Request
	terms   terms
	want    wire.Errno
}{
	{"unknown command", wire.Request{Command: 8}, terms{}, wire.EINVAL},
	{"unknown command, high", wire.Request{Command: math.MaxUint16, Length: 4096}, terms{}, wire.EINVAL},
	{"resize, never standardised", wire.Request{Command: 9, Length: 4096}, terms{}, wire.EINVAL},
	{"unknown flag", wire.Request{Command: wire.CmdWrite, Flags: 1 << 9, Length: 1}, terms{}, wire.EINVAL},
	{"payload length without extended headers", wire.Request{Command: wire.CmdWrite, Flags: 1 << 5, Length: 1}, terms{}, wire.EINVAL},
	{"NO_HOLE on a write", wire.Request{Command: wire.CmdWrite, Flags: wire.FlagNoHole, Length: 1}, terms{}, wire.EINVAL},
	{"NO_HOLE on a trim", wire.Request{Command: wire.CmdTrim, Flags: wire.FlagNoHole, Length: 1}, terms{}, wire.EINVAL},
	{"DF on a write", wire.Request{Command: wire.CmdWrite, Flags: wire.FlagDF, Length: 1}, terms{structured: true}, wire.EINVAL},
	{"DF without structured replies", wire.Request{Command: wire.CmdRead, Flags: wire.FlagDF, Length: 1}, terms{}, wire.EINVAL},
	{"REQ_ONE on a read", wire.Request{Command: wire.CmdRead, Flags: wire.FlagReqOne, Length: 1}, terms{}, wire.EINVAL},
	{"FAST_ZERO on a trim", wire.Request{Command: wire.CmdTrim, Flags: wire.FlagFastZero, Length: 1}, terms{}, wire.EINVAL},
	{"flush with a length", wire.Request{Command: wire.CmdFlush, Length: 1}, terms{}, wire.EINVAL},
	{"flush with an offset", wire.Request{Command: wire.CmdFlush, Offset: 1}, terms{}, wire.EINVAL},
	{"status without a context", wire.Request{Command: wire.CmdBlockStatus, Length: 1}, terms{structured: true}, wire.EINVAL},
	{"status of nothing", wire.Request{Command: wire.CmdBlockStatus}, terms{structured: true, allocation: true}, wire.EINVAL},

	{"write, read-only", wire.Request{Command: wire.CmdWrite, Length: 1}, terms{readOnly: true}, wire.EPERM},
	{"trim, read-only", wire.Request{Command: wire.CmdTrim, Length: 1}, terms{readOnly: true}, wire.EPERM},
	{"zeroes, read-only", wire.Request{Command: wire.CmdWriteZeroes, Length: 1}, terms{readOnly: true}, wire.EPERM},
	{"write beyond the end, read-only", wire.Request{Command: wire.CmdWrite, Offset: checkedSize, Length: 1}, terms{readOnly: true}, wire.EPERM},

	{"read beyond the end", wire.Request{Command: wire.CmdRead, Offset: checkedSize - 1, Length: 2}, terms{}, wire.EINVAL},
	{"write beyond the end", wire.Request{Command: wire.CmdWrite, Offset: checkedSize - 1, Length: 2}, terms{}, wire.ENOSPC},
	{"zeroes beyond the end", wire.Request{Command: wire.CmdWriteZeroes, Offset: checkedSize, Length: 1}, terms{}, wire.ENOSPC},
	{"trim beyond the end", wire.Request{Command: wire.CmdTrim, Offset: checkedSize, Length: 1}, terms{}, wire.EINVAL},
	{"cache beyond the end", wire.Request{Command: wire.CmdCache, Offset: checkedSize, Length: 1}, terms{}, wire.EINVAL},
	{"status beyond the end", wire.Request{Command: wire.CmdBlockStatus, Offset: checkedSize, Length: 1}, terms{structured: true, allocation: true}, wire.EINVAL},
	{"read that wraps around", wire.Request{Command: wire.CmdRead, Offset: math.MaxUint64 - 1, Length: 4096}, terms{}, wire.EINVAL},
	{"write that wraps around", wire.Request{Command: wire.CmdWrite, Offset: math.MaxUint64, Length: 1}, terms{}, wire.ENOSPC},
	{"zeroes that wrap around", wire.Request{Command: wire.CmdWriteZeroes, Offset: 1 << 63, Length: math.MaxUint32}, terms{}, wire.ENOSPC},
	{"nothing, beyond the end", wire.Request{Command: wire.CmdRead, Offset: checkedSize + 1}, terms{}, wire.EINVAL},

	{"read too large", wire.Request{Command: wire.CmdRead, Length: wire.MaxPayloadBytes + 1}, terms{}, wire.EINVAL},
	{"read too large in one piece", wire.Request{Command: wire.CmdRead, Flags: wire.FlagDF, Length: wire.MaxPayloadBytes + 1}, terms{structured: true}, wire.EOVERFLOW},
	{"write too large", wire.Request{Command: wire.CmdWrite, Length: wire.MaxPayloadBytes + 1}, terms{}, wire.EINVAL},
}

var legal = []struct {
	name    string
	request wire.Request
	terms   terms
}{
	{"read to the end", wire.Request{Command: wire.CmdRead, Offset: checkedSize - 1, Length: 1}, terms{}},
	{"unaligned write", wire.Request{Command: wire.CmdWrite, Offset: 3, Length: 5}, terms{}},
	{"largest write", wire.Request{Command: wire.CmdWrite, Length: wire.MaxPayloadBytes}, terms{}},
	{"FUA on a read", wire.Request{Command: wire.CmdRead, Flags: wire.FlagFUA, Length: 1}, terms{}},
	{"FUA on a flush", wire.Request{Command: wire.CmdFlush, Flags: wire.FlagFUA}, terms{}},
	{"FUA on a cache", wire.Request{Command: wire.CmdCache, Flags: wire.FlagFUA, Length: 1}, terms{}},
	{"DF", wire.Request{Command: wire.CmdRead, Flags: wire.FlagDF, Length: 64 << 10}, terms{structured: true}},
	{"zeroes larger than any payload", wire.Request{Command: wire.CmdWriteZeroes, Flags: wire.FlagNoHole | wire.FlagFastZero | wire.FlagFUA, Length: checkedSize}, terms{}},
	{"trim of everything", wire.Request{Command: wire.CmdTrim, Length: checkedSize}, terms{}},
	{"status", wire.Request{Command: wire.CmdBlockStatus, Flags: wire.FlagReqOne, Length: checkedSize}, terms{structured: true, allocation: true}},
	{"read, read-only", wire.Request{Command: wire.CmdRead, Length: 1}, terms{readOnly: true}},
	{"flush, read-only", wire.Request{Command: wire.CmdFlush}, terms{readOnly: true}},
	{"read of nothing", wire.Request{Command: wire.CmdRead, Offset: checkedSize}, terms{}},
}

func TestCheck(t *testing.T) {
	for _, c := range illegal {
		c.terms.sizeBytes = checkedSize
		if got, _ := c.terms.check(c.request); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	for _, c := range legal {
		c.terms.sizeBytes = checkedSize
		if got, reason := c.terms.check(c.request); got != 0 {
			t.Errorf("%s: %v, %s", c.name, got, reason)
		}
	}
}

// replyReader takes apart what a server sent in the transmission phase.
type replyReader struct {
	t   testing.TB
	src []byte
}

// answer is one reply.
type answer struct {
	cookie uint64
	errno  wire.Errno
	chunk  wire.ChunkType // of a structured reply
	data   []byte
}

// next decodes a reply; readBytes is what a successful simple reply carries.
func (r *replyReader) next(readBytes int) answer {
	r.t.Helper()
	if len(r.src) < wire.SimpleReplyBytes {
		r.t.Fatalf("reply is %x", r.src)
	}
	if binary.BigEndian.Uint32(r.src) == wire.MagicStructuredReply {
		return r.nextChunk()
	}
	a := answer{errno: wire.Errno(binary.BigEndian.Uint32(r.src[4:])), cookie: binary.BigEndian.Uint64(r.src[8:])}
	if magic := binary.BigEndian.Uint32(r.src); magic != wire.MagicSimpleReply {
		r.t.Fatalf("reply opens with %#x", magic)
	}
	r.src = r.src[wire.SimpleReplyBytes:]
	if a.errno == 0 {
		a.data, r.src = r.src[:readBytes], r.src[readBytes:]
	}
	return a
}

func (r *replyReader) nextChunk() answer {
	r.t.Helper()
	chunk := wire.DecodeChunk(r.src)
	payload := r.src[wire.ChunkHeaderBytes:][:chunk.Length]
	r.src = r.src[wire.ChunkHeaderBytes+int(chunk.Length):]
	a := answer{cookie: chunk.Cookie, chunk: chunk.Type, data: payload}
	if chunk.Flags != wire.ChunkDone {
		r.t.Fatalf("chunk flags %#x", chunk.Flags)
	}
	if chunk.Type.IsError() {
		a.errno = wire.Errno(binary.BigEndian.Uint32(payload))
		if n := int(binary.BigEndian.Uint16(payload[4:])); n != len(payload)-wire.ChunkErrorBytes {
			r.t.Fatalf("error text of %d bytes in a chunk of %d", n, len(payload))
		}
	}
	return a
}

// Every illegal request gets its error, and the connection lives on. The larger payloads are left out here.
func TestIllegalRequestsOnTheWire(t *testing.T) {
	for _, structured := range []bool{false, true} {
		t.Run(fmt.Sprintf("structured=%v", structured), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { playIllegalRequests(t, structured) })
		})
	}
}

func playIllegalRequests(t *testing.T, structured bool) {
	for _, c := range illegal {
		if c.terms.structured && !structured || c.request.Length > wire.MaxPayloadBytes && c.request.Command == wire.CmdWrite {
			continue
		}
		if structured && c.request.Flags&wire.FlagDF != 0 && c.want == wire.EINVAL && c.request.Command == wire.CmdRead {
			continue // legal with structured replies
		}
		tp := newTape(t, startServer(t, directory{{
			Name: "r0", Device: nbdtest.NewMemory(checkedSize), ReadOnly: c.terms.readOnly,
		}}, Config{}))
		var options [][]byte
		if structured {
			options = append(options, option(wire.OptStructuredReply))
		}
		if c.terms.allocation {
			options = append(options, option(wire.OptSetMetaContext, metaData("", wire.BaseAllocation)...))
		}
		tp.send(opening(options...))
		if _, closed := tp.take(); closed {
			t.Fatal("the negotiation failed")
		}
		c.request.Cookie = 0xfeedface
		message := c.request.Append(nil)
		if c.request.Command == wire.CmdWrite {
			message = append(message, make([]byte, c.request.Length)...)
		}
		message = wire.Request{Command: wire.CmdRead, Cookie: 2, Length: 1}.Append(message)
		tp.send(message)
		got, closed := tp.take()
		if closed {
			t.Errorf("%s: connection closed", c.name)
			continue
		}
		replies := replyReader{t, got}
		first, second := replies.next(0), replies.next(1)
		if first.cookie != 0xfeedface || first.errno != c.want {
			t.Errorf("%s: reply %+v, want %v", c.name, first, c.want)
		}
		if second.cookie != 2 || second.errno != 0 || len(replies.src) != 0 {
			t.Errorf("%s: then %+v and %x", c.name, second, replies.src)
		}
	}
}
