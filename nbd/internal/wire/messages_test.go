package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// Each message against bytes written down from the specification.
func TestMessages(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"greeting", AppendGreeting(nil, FlagFixedNewstyle|FlagNoZeroes), "4e42444d41474943 49484156454f5054 0003"},
		{"option", OptionHeader{OptGo, 12}.Append(nil), "49484156454f5054 00000007 0000000c"},
		{"option reply", OptionReplyHeader{OptList, RepErrUnsup, 3}.Append(nil), "0003e889045565a9 00000003 80000001 00000003"},
		{"request", Request{FlagFUA | FlagNoHole, CmdWriteZeroes, 0x0102030405060708, 1 << 40, 4096}.Append(nil),
			"25609513 0003 0006 0102030405060708 0000010000000000 00001000"},
		{"simple reply", AppendSimpleReply(nil, ENOSPC, 9), "67446698 0000001c 0000000000000009"},
		{"chunk", Chunk{ChunkDone, ChunkError, 9, 6}.Append(nil), "668e33ef 0001 8001 0000000000000009 00000006"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.got, want) {
			t.Errorf("%s: %x, want %x", c.name, c.got, want)
		}
	}
}

func TestDecodersRefuseWrongMagic(t *testing.T) {
	junk := make([]byte, 32)
	for name, decode := range map[string]func() error{
		"greeting":     func() error { _, err := DecodeGreeting(junk); return err },
		"option":       func() error { _, err := DecodeOptionHeader(junk); return err },
		"option reply": func() error { _, err := DecodeOptionReplyHeader(junk); return err },
		"request":      func() error { _, err := DecodeRequest(junk); return err },
	} {
		if err := decode(); !errors.Is(err, ErrBadMagic) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(Request{Command: CmdWrite, Flags: FlagFUA, Cookie: 1, Offset: 2, Length: 3}.Append(nil))
	f.Add(make([]byte, RequestBytes))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < RequestBytes {
			return
		}
		r, err := DecodeRequest(p)
		if err == nil && !bytes.Equal(r.Append(nil), p[:RequestBytes]) {
			t.Errorf("%x decodes to %+v, which is %x", p, r, r.Append(nil))
		}
	})
}

// Everything has a name, and what has none says its number.
func TestNames(t *testing.T) {
	for want, got := range map[string]string{
		"GO": OptGo.String(), "option 99": Option(99).String(), "ERR_POLICY": RepErrPolicy.String(),
		"option reply 0x63": OptionReply(99).String(), "WRITE_ZEROES": CmdWriteZeroes.String(), "command 99": Command(99).String(),
		"OK": Errno(0).String(), "ENOSPC": ENOSPC.String(), "error 99": Errno(99).String(),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
