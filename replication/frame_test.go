package replication

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// exampleFrames has one frame of every type, as docs/PROTOCOL.md describes them.
func exampleFrames() []struct {
	header  Header
	payload []byte
} {
	data := bytes.Repeat([]byte("0123456789abcdef"), 2)
	frames := []struct {
		header  Header
		payload []byte
	}{
		{Header{Type: FrameHello}, []byte(`{"version":1}`)},
		{Header{Type: FrameHelloReply}, []byte(`{"refused":"no"}`)},
		{Header{Type: FrameConfiguration, Generation: 41}, []byte(`{"configuration":{}}`)},
		{Header{Type: FrameReject, Seq: 5, Generation: 40}, []byte(`{"promised":42,"reason":""}`)},
		{Header{Type: FramePing, Seq: 6}, nil},
		{Header{Type: FramePong, Seq: 6}, nil},
		{Header{Type: FrameGoodbye}, []byte("shutting down")},
		{Header{Type: FrameLeaseAsk, Seq: 12, Generation: 41}, nil},
		{Header{Type: FrameLeaseGrant, Seq: 12, Generation: 41}, nil},
		{Header{Type: FrameData, Flags: FlagFUA, Seq: 7, Generation: 41, Offset: 8192, Length: 32, Epoch: 3}, data},
		{Header{Type: FrameTrim, Seq: 8, Generation: 41, Offset: 4096, Length: MaxTrimBytes, Epoch: 3}, nil},
		{Header{Type: FrameZero, Flags: FlagNoHole, Seq: 9, Generation: 41, Offset: 1 << 40, Length: 65536, Epoch: 3}, nil},
		{Header{Type: FrameBarrier, Seq: 10, Generation: 41, Epoch: 3}, nil},
		{Header{Type: FrameStable, Generation: 41, Epoch: 3}, nil},
		{Header{Type: FrameWriteAck, Seq: 7, Generation: 41}, nil},
		{Header{Type: FrameWriteFail, Seq: 8, Generation: 41}, []byte("no space left on device")},
		{Header{Type: FrameBarrierAck, Seq: 10, Generation: 41, Epoch: 3}, nil},
		{Header{Type: FrameRead, Seq: 11, Generation: 41, Offset: 4096, Length: 32}, nil},
		{Header{Type: FrameReadReply, Seq: 11, Generation: 41, Offset: 4096, Length: 32}, data},
		{Header{Type: FrameBitmapChunk, Generation: 41}, []byte{chunkPlain, 0, 3, 1}},
		{Header{Type: FrameBitmapDone, Generation: 41}, []byte(`{"dirty-blocks":1}`)},
		{Header{Type: FrameResyncStart, Flags: FlagFull, Generation: 41}, []byte(`{"dirty-blocks":1}`)},
		{Header{Type: FrameResyncReady, Generation: 41}, []byte(`{"dirty-blocks":1,"promised":41}`)},
		{Header{Type: FrameResyncRequest, Seq: 12, Generation: 41, Offset: 12288, Length: 4096}, nil},
		{Header{Type: FrameResyncData, Flags: FlagCompressed, Seq: 12, Generation: 41, Offset: 12288, Length: 4096}, data},
		{Header{Type: FrameResyncZero, Seq: 13, Generation: 41, Offset: 16384, Length: MaxResyncBytes}, nil},
		{Header{Type: FrameResyncWritten, Seq: 12, Generation: 41, Offset: 12288, Length: 4096}, nil},
		{Header{Type: FrameResyncDone, Generation: 41}, []byte(`{"dirty-blocks":0}`)},
		{Header{Type: FrameResyncAbort, Generation: 41}, []byte("read error")},
		{Header{Type: FrameResyncCompare, Seq: 14, Generation: 41, Offset: 12288, Length: 4096}, data},
		{Header{Type: FrameResyncSame, Seq: 14, Generation: 41, Offset: 12288, Length: 4096}, nil},
		{Header{Type: FrameResyncControl}, []byte(`{"paused":true,"rate":1048576}`)},
		{Header{Type: FrameVerifyRequest, Seq: 14, Generation: 41, Offset: 1 << 20, Length: MaxVerifyBytes}, nil},
		{Header{Type: FrameVerifyHashes, Seq: 14, Offset: 4096, Length: 8192}, data}, // not hashes of anything, but as long
		{Header{Type: FrameVerifyDiffers, Generation: 41}, []byte{chunkPlain, 0, 3, 1}},
		{Header{Type: FrameVerifyDone, Generation: 41}, []byte(`{"different-blocks":1,"repair":true}`)},
		{Header{Type: FrameVerifyMarked}, nil},
		{Header{Type: FramePullRequest, Seq: 3, Generation: 42}, []byte(`{"version":1}`)},
		{Header{Type: FramePullStart, Flags: FlagFull, Seq: 3, Generation: 42}, nil},
	}
	for i := range frames {
		frames[i].header.setPayload(frames[i].payload)
	}
	return frames
}

// encodedFrame is a frame as it is on the wire.
func encodedFrame(h *Header, payload []byte) []byte {
	b := make([]byte, HeaderBytes, HeaderBytes+len(payload))
	h.Encode(b)
	return append(b, payload...)
}

func TestFrameGolden(t *testing.T) {
	var out strings.Builder
	seen := map[FrameType]bool{}
	for _, frame := range exampleFrames() {
		seen[frame.header.Type] = true
		fmt.Fprintf(&out, "%d %s\n%s\n", frame.header.Type, frame.header, dumpBytes(encodedFrame(&frame.header, frame.payload)))
	}
	compareGolden(t, "frames.golden", []byte(out.String()))
	for frameType := range frameRules {
		if ruleOf(FrameType(frameType)) != nil && !seen[FrameType(frameType)] {
			t.Errorf("%s has no example", FrameType(frameType))
		}
	}
}

// TestFrameRoundTrip reads all examples from one stream, byte by byte and in one piece.
func TestFrameRoundTrip(t *testing.T) {
	var stream []byte
	for _, frame := range exampleFrames() {
		stream = append(stream, encodedFrame(&frame.header, frame.payload)...)
	}
	for name, reader := range map[string]io.Reader{
		"at once": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			in := newFrameReader(reader, HeaderBytes)
			for _, want := range exampleFrames() {
				var h Header
				if err := in.header(&h); err != nil || h != want.header {
					t.Fatalf("read %v, %v, want %v", h, err, want.header)
				}
				payload := make([]byte, h.PayloadLength)
				if err := in.payload(&h, payload); err != nil || !bytes.Equal(payload, want.payload) {
					t.Fatalf("%s: payload %q, %v", h.Type, payload, err)
				}
			}
			if err := in.header(new(Header)); !errors.Is(err, io.EOF) {
				t.Errorf("end of the stream is %v", err)
			}
		})
	}
}

func TestFrameStreamThatEndsWithinAFrame(t *testing.T) {
	frame := exampleFrames()[7]
	whole := encodedFrame(&frame.header, frame.payload)
	for cut := 1; cut < len(whole); cut++ {
		in := newFrameReader(bytes.NewReader(whole[:cut]), 4096)
		var h Header
		err := in.header(&h)
		if err == nil {
			err = in.payload(&h, make([]byte, h.PayloadLength))
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

func TestDecodeHeaderErrors(t *testing.T) {
	data := Header{Type: FrameData, Offset: 4096, Length: 32, PayloadLength: 32}
	for _, test := range []struct {
		name   string
		header Header
		damage func(b []byte)
		want   error
	}{
		{"fine", data, nil, nil},
		{"magic", data, func(b []byte) { b[0] ^= 1 }, errFrameMagic},
		{"type bit", data, func(b []byte) { b[4] ^= 1 }, errFrameHeaderCRC},
		{"checksum bit", data, func(b []byte) { b[63] ^= 1 }, errFrameHeaderCRC},
		{"type zero", Header{}, nil, errFrameType},
		{"type in a gap", Header{Type: 10}, nil, errFrameType},
		{"type in a larger gap", Header{Type: 47}, nil, errFrameType},
		{"type above all", Header{Type: 53}, nil, errFrameType},
		{"type at the top", Header{Type: 65535}, nil, errFrameType},
		{"unknown flag", Header{Type: FramePing, Flags: 0x8000}, nil, errFrameFlags},
		{"payload where none belongs", Header{Type: FramePing, PayloadLength: 1}, nil, errFrameTooLong},
		{"payload above the bound", Header{Type: FrameHello, PayloadLength: MaxHandshakeBytes + 1}, nil, errFrameTooLong},
		{"payload at the bound", Header{Type: FrameHello, PayloadLength: MaxHandshakeBytes}, nil, nil},
		{"data at the bound", Header{Type: FrameData, Length: MaxDataBytes, PayloadLength: MaxDataBytes}, nil, nil},
		{"data above the bound", Header{Type: FrameData, Length: MaxDataBytes + 1, PayloadLength: MaxDataBytes + 1}, nil, errFrameTooLong},
		{"payload of 4 GiB", Header{Type: FrameData, Length: 1<<32 - 1, PayloadLength: 1<<32 - 1}, nil, errFrameTooLong},
		{"trim above the bound", Header{Type: FrameTrim, Length: MaxTrimBytes + 1}, nil, errFrameTooLong},
		{"length of 2^64-1", Header{Type: FrameTrim, Length: 1<<64 - 1}, nil, errFrameTooLong},
		{"empty range", Header{Type: FrameTrim}, nil, errFrameLength},
		{"range beyond 2^64", Header{Type: FrameTrim, Offset: 1<<64 - 1, Length: 2}, nil, errFrameLength},
		{"data shorter than its range", Header{Type: FrameData, Length: 32, PayloadLength: 31}, nil, errFrameLength},
		{"data longer than its range", Header{Type: FrameData, Length: 32, PayloadLength: 33}, nil, errFrameLength},
		{"compressed", Header{Type: FrameResyncData, Flags: FlagCompressed, Length: 32, PayloadLength: 9}, nil, nil},
		{"compressed to nothing", Header{Type: FrameResyncData, Flags: FlagCompressed, Length: 32}, nil, errFrameLength},
		{"compressed to more", Header{Type: FrameResyncData, Flags: FlagCompressed, Length: 32, PayloadLength: 33}, nil, errFrameLength},
		{"hashes", Header{Type: FrameResyncCompare, Offset: 4096, Length: 8192, PayloadLength: 64}, nil, nil},
		{"too few hashes", Header{Type: FrameResyncCompare, Length: 8192, PayloadLength: 32}, nil, errFrameLength},
		{"too many hashes", Header{Type: FrameResyncCompare, Length: 8192, PayloadLength: 96}, nil, errFrameLength},
		{"hash of a part of a block", Header{Type: FrameResyncCompare, Length: 4097, PayloadLength: 32}, nil, errFrameLength},
		{"hash of a block that begins anywhere", Header{Type: FrameResyncCompare, Offset: 512, Length: 4096, PayloadLength: 32}, nil, errFrameLength},
		{"no hashes", Header{Type: FrameResyncCompare}, nil, errFrameLength},
		{"verify above the bound", Header{Type: FrameVerifyRequest, Length: MaxVerifyHoleBytes + 4096}, nil, errFrameTooLong},
		{"verify of nothing", Header{Type: FrameVerifyRequest}, nil, errFrameLength},
		{"more hashes than blocks fit", Header{Type: FrameVerifyHashes, Length: 4096, PayloadLength: maxHashesBytes + 1}, nil, errFrameTooLong},
		{"failed read with a reason", Header{Type: FrameReadReply, Flags: FlagFailed, Length: 1 << 20, PayloadLength: 9}, nil, nil},
		{"failed read with too much", Header{Type: FrameReadReply, Flags: FlagFailed, Length: 1 << 20, PayloadLength: 1 << 20}, nil, errFrameTooLong},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := make([]byte, HeaderBytes)
			test.header.Encode(b)
			if test.damage != nil {
				test.damage(b)
			}
			h, err := DecodeHeader(b)
			if !errors.Is(err, test.want) || err == nil && h != test.header {
				t.Errorf("decoded %v, %v, want %v", h, err, test.want)
			}
		})
	}
	if _, err := DecodeHeader(make([]byte, HeaderBytes-1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a short header: %v", err)
	}
}

// TestFrameDamageIsNoticed flips every bit of a frame.
func TestFrameDamageIsNoticed(t *testing.T) {
	frame := exampleFrames()[7]
	whole := encodedFrame(&frame.header, frame.payload)
	for bit := range len(whole) * 8 {
		damaged := bytes.Clone(whole)
		damaged[bit/8] ^= 1 << (bit % 8)
		in := newFrameReader(bytes.NewReader(damaged), 4096)
		var h Header
		err := in.header(&h)
		if err == nil {
			err = in.payload(&h, make([]byte, h.PayloadLength))
		}
		if want := errFramePayloadCRC; bit/8 >= HeaderBytes && !errors.Is(err, want) || err == nil {
			t.Errorf("bit %d: %v", bit, err)
		}
	}
}

func TestReadPayloadWantsAFittingBuffer(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	t.Error(newFrameReader(strings.NewReader(""), 4096).payload(&Header{PayloadLength: 2}, make([]byte, 1)))
}

func TestFrameTypeString(t *testing.T) {
	for frameType, want := range map[FrameType]string{FrameData: "Data", FrameResyncAbort: "ResyncAbort", 10: "FrameType(10)", 999: "FrameType(999)"} {
		if got := frameType.String(); got != want {
			t.Errorf("%d is %q, want %q", uint16(frameType), got, want)
		}
	}
}

func TestFrameCodecAllocatesNothing(t *testing.T) {
	frame := exampleFrames()[7]
	source := bytes.NewReader(encodedFrame(&frame.header, frame.payload))
	in := newFrameReader(source, 4096)
	payload := make([]byte, len(frame.payload))
	var h Header
	dst := make([]byte, HeaderBytes)
	allocations := testing.AllocsPerRun(100, func() {
		frame.header.Encode(dst)
		source.Seek(0, io.SeekStart) //nolint:errcheck // a bytes.Reader seeks to its start without fail
		if err := errors.Join(in.header(&h), in.payload(&h, payload)); err != nil {
			t.Fatal(err)
		}
	})
	if allocations != 0 {
		t.Errorf("%v allocations per frame, want 0", allocations)
	}
}

// FuzzDecodeHeader checks that whatever is accepted is within its bounds and encodes to itself.
func FuzzDecodeHeader(f *testing.F) {
	for _, frame := range exampleFrames() {
		f.Add(encodedFrame(&frame.header, nil))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if len(src) >= HeaderBytes {
			// Magic and checksum that fit let the fuzzer reach what is behind them.
			binary.LittleEndian.PutUint32(src, frameMagic)
			binary.LittleEndian.PutUint16(src[10:], 0)
			binary.LittleEndian.PutUint32(src[60:], payloadChecksum(src[:60]))
		}
		h, err := DecodeHeader(src)
		if err != nil {
			return
		}
		rule := ruleOf(h.Type)
		if h.PayloadLength > rule.maxPayload || rule.rule != rangeNone && (h.Length == 0 || h.Length > rule.maxLength || h.Offset+h.Length < h.Offset) {
			t.Fatalf("accepted %v", h)
		}
		again := make([]byte, HeaderBytes)
		if h.Encode(again); !bytes.Equal(again, src[:HeaderBytes]) {
			t.Fatalf("%v encodes differently", h)
		}
	})
}

func BenchmarkFrameHeader(b *testing.B) {
	frame := exampleFrames()[7]
	dst := make([]byte, HeaderBytes)
	b.ReportAllocs()
	for b.Loop() {
		frame.header.Encode(dst)
		if _, err := DecodeHeader(dst); err != nil {
			b.Fatal(err)
		}
	}
}
