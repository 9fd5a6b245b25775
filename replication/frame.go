package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"duet/bitmap"
)

// ProtocolVersion is the version of the peer protocol that this code speaks; docs/PROTOCOL.md specifies it.
const ProtocolVersion = 1

// FrameType says what a frame is for. Numbers are never used again for something else.
type FrameType uint16

// The frames of the peer protocol. "Primary" is the end that sends writes, "target" the end that a resync brings up to
// date. The session's two connections are called data and ack; docs/PROTOCOL.md has the table.
const (
	FrameHello         FrameType = 1 // first frame of a connection: who is there (payload Hello)
	FrameHelloReply    FrameType = 2 // its answer (payload HelloReply)
	FrameConfiguration FrameType = 3 // a committed configuration, before the first frame tagged with its generation
	FrameReject        FrameType = 4 // the peer's generation is too old (payload Reject)
	FramePing          FrameType = 5 // sign of life; Pong repeats Seq
	FramePong          FrameType = 6
	FrameGoodbye       FrameType = 7 // the session ends in good order (payload: the reason as text)
	FrameLeaseAsk      FrameType = 8 // the Primary asks for a lease, in round Seq
	FrameLeaseGrant    FrameType = 9 // the lease is granted; Seq is repeated

	FrameData       FrameType = 16 // a write; payload is the data
	FrameTrim       FrameType = 17 // the range reads as zeroes, its space may be freed
	FrameZero       FrameType = 18 // the range reads as zeroes, its space stays allocated
	FrameBarrier    FrameType = 19 // ends Epoch: make everything up to it durable
	FrameStable     FrameType = 20 // everything up to Epoch is durable wherever it was sent
	FrameWriteAck   FrameType = 21 // the replica's device accepted write Seq
	FrameWriteFail  FrameType = 22 // the replica's device refused write Seq (payload: the error as text)
	FrameBarrierAck FrameType = 23 // everything up to Epoch is durable here; with FlagFailed it is not (payload: why)
	FrameRead       FrameType = 24 // read a range of an UpToDate replica
	FrameReadReply  FrameType = 25 // payload is the data; with FlagFailed the error as text

	FrameBitmapChunk   FrameType = 32 // runs of out-of-sync blocks
	FrameBitmapDone    FrameType = 33 // the sender's bitmap is complete
	FrameResyncStart   FrameType = 34 // source to target: become Inconsistent, durably
	FrameResyncReady   FrameType = 35 // the target is
	FrameResyncRequest FrameType = 36 // the target wants this range
	FrameResyncData    FrameType = 37 // its content
	FrameResyncZero    FrameType = 38 // its content is all zeroes
	FrameResyncWritten FrameType = 39 // the target's device accepted it; with FlagFailed it did not (payload: why)
	FrameResyncDone    FrameType = 40 // no bit is set any more
	FrameResyncAbort   FrameType = 41 // this resync ends unfinished (payload: the reason as text)
	FrameResyncCompare FrameType = 42 // the target wants this range as far as it differs (payload: hashes of its blocks)
	FrameResyncSame    FrameType = 43 // the target has this content already
	FrameResyncControl FrameType = 44 // whether the sender is paused, and how the source wants to be asked

	FramePullRequest FrameType = 45 // a Primary wants its own disk brought up to date; payload: what that says of itself, as in Hello
	FramePullStart   FrameType = 46 // the sender's bitmap follows; with FlagFull every block is to be copied, with FlagFailed nothing follows (payload: why)

	FrameVerifyRequest FrameType = 48 // hash the blocks of this range
	FrameVerifyHashes  FrameType = 49 // their hashes; with FlagHole nothing is stored there, with FlagFailed the error as text
	FrameVerifyDiffers FrameType = 50 // runs of blocks that differ at the receiver
	FrameVerifyDone    FrameType = 51 // the verify is over; it may ask for a repair
	FrameVerifyMarked  FrameType = 52 // the receiver of VerifyDone is durably Inconsistent in these blocks
)

// Flags of a frame.
const (
	FlagFUA        uint16 = 1 << 0 // the write is on stable media before it is acknowledged
	FlagNoHole     uint16 = 1 << 1 // allocated zeroes were asked for
	FlagCompressed uint16 = 1 << 2 // the payload is one zstd frame of Length bytes of content
	FlagFresh      uint16 = 1 << 3 // both disks were just created and are all holes: nothing to copy
	FlagFailed     uint16 = 1 << 4 // the operation failed; the payload says why
	FlagFull       uint16 = 1 << 5 // every block is to be copied
	FlagKnown      uint16 = 1 << 6 // the source knows every block that the target may have changed
	FlagHole       uint16 = 1 << 7 // nothing is stored in the range, it reads as zeroes

	knownFlags = FlagFUA | FlagNoHole | FlagCompressed | FlagFresh | FlagFailed | FlagFull | FlagKnown | FlagHole
)

// Bounds of what one frame may carry. They bound a receiver's memory per frame.
const (
	HeaderBytes = 64

	MaxDataBytes        = 32 << 20 // the largest write an NBD client may send
	MaxTrimBytes        = 64 << 20 // the largest range that takes one step through the write path
	MaxResyncBytes      = 1 << 20  // the largest coalesced resync request
	MaxVerifyBytes      = 1 << 20  // the largest range whose blocks are hashed at once
	MaxVerifyHoleBytes  = 64 << 20 // the largest range that is asked about as a hole
	MaxHandshakeBytes   = 64 << 10 // JSON of Hello, HelloReply, Configuration
	MaxBitmapChunkBytes = 256<<10 + 16
	maxTextBytes        = 1 << 10 // an error or a reason
	maxSmallBytes       = 4 << 10 // JSON of the rare resync frames
	maxCompareBytes     = MaxResyncBytes / bitmap.BlockBytes * compareHashBytes
	maxHashesBytes      = MaxVerifyBytes / bitmap.BlockBytes * blockHashBytes
)

// frameMagic begins every header: "DUF1" in memory order.
const frameMagic uint32 = 'D' | 'U'<<8 | 'F'<<16 | '1'<<24

// Errors of decoding. Each ends the session: after one of them the stream can't be trusted.
var (
	errFrameMagic      = errors.New("frame does not begin with the magic number")
	errFrameHeaderCRC  = errors.New("frame header checksum mismatch")
	errFrameType       = errors.New("unknown frame type")
	errFrameFlags      = errors.New("unknown frame flag")
	errFrameTooLong    = errors.New("frame exceeds the bound of its type")
	errFrameLength     = errors.New("frame lengths contradict each other")
	errFramePayloadCRC = errors.New("frame payload checksum mismatch")
)

// Header is the fixed part of every frame. A field that a type does not use is sent as zero and ignored.
type Header struct {
	Type          FrameType
	Flags         uint16
	Volume        uint16 // always 0 in this version
	PayloadLength uint32 // bytes that follow the header
	Seq           uint64 // the sender's number for a request, repeated by its answer
	Generation    uint64 // the configuration that the sender acts in
	Offset        uint64 // bytes, begin of the range
	Length        uint64 // bytes, length of the range
	Epoch         uint64 // the write-ordering unit
	PayloadCRC    uint32 // CRC-32C of the payload, 0 for none
}

// rangeRule says how Length relates to the payload of a type.
type rangeRule uint8

const (
	rangeNone    rangeRule = iota // the frame speaks of no range
	rangeOnly                     // a range of 1 to maxLength bytes, no data
	rangePayload                  // a range whose content is the payload
	rangeHashes                   // a range of whole blocks; the payload is one hash for each
)

// frameRule is what a header of one type must satisfy.
type frameRule struct {
	name       string
	rule       rangeRule
	maxPayload uint32
	maxLength  uint64
}

// frameRules is indexed by FrameType; an entry without a name is no frame.
var frameRules = [...]frameRule{
	FrameHello:         {"Hello", rangeNone, MaxHandshakeBytes, 0},
	FrameHelloReply:    {"HelloReply", rangeNone, MaxHandshakeBytes, 0},
	FrameConfiguration: {"Configuration", rangeNone, MaxHandshakeBytes, 0},
	FrameReject:        {"Reject", rangeNone, maxSmallBytes, 0},
	FramePing:          {"Ping", rangeNone, 0, 0},
	FramePong:          {"Pong", rangeNone, 0, 0},
	FrameGoodbye:       {"Goodbye", rangeNone, maxTextBytes, 0},
	FrameLeaseAsk:      {"LeaseAsk", rangeNone, 0, 0},
	FrameLeaseGrant:    {"LeaseGrant", rangeNone, 0, 0},

	FrameData:       {"Data", rangePayload, MaxDataBytes, MaxDataBytes},
	FrameTrim:       {"Trim", rangeOnly, 0, MaxTrimBytes},
	FrameZero:       {"Zero", rangeOnly, 0, MaxTrimBytes},
	FrameBarrier:    {"Barrier", rangeNone, 0, 0},
	FrameStable:     {"Stable", rangeNone, 0, 0},
	FrameWriteAck:   {"WriteAck", rangeNone, 0, 0},
	FrameWriteFail:  {"WriteFail", rangeNone, maxTextBytes, 0},
	FrameBarrierAck: {"BarrierAck", rangeNone, maxTextBytes, 0},
	FrameRead:       {"Read", rangeOnly, 0, MaxDataBytes},
	FrameReadReply:  {"ReadReply", rangePayload, MaxDataBytes, MaxDataBytes},

	FrameBitmapChunk:   {"BitmapChunk", rangeNone, MaxBitmapChunkBytes, 0},
	FrameBitmapDone:    {"BitmapDone", rangeNone, maxSmallBytes, 0},
	FrameResyncStart:   {"ResyncStart", rangeNone, maxSmallBytes, 0},
	FrameResyncReady:   {"ResyncReady", rangeNone, maxSmallBytes, 0},
	FrameResyncRequest: {"ResyncRequest", rangeOnly, 0, MaxResyncBytes},
	FrameResyncData:    {"ResyncData", rangePayload, MaxResyncBytes, MaxResyncBytes},
	FrameResyncZero:    {"ResyncZero", rangeOnly, 0, MaxResyncBytes},
	FrameResyncWritten: {"ResyncWritten", rangeOnly, maxTextBytes, MaxResyncBytes},
	FrameResyncDone:    {"ResyncDone", rangeNone, maxSmallBytes, 0},
	FrameResyncAbort:   {"ResyncAbort", rangeNone, maxTextBytes, 0},
	FrameResyncCompare: {"ResyncCompare", rangeHashes, maxCompareBytes, MaxResyncBytes},
	FrameResyncSame:    {"ResyncSame", rangeOnly, 0, MaxResyncBytes},
	FrameResyncControl: {"ResyncControl", rangeNone, maxSmallBytes, 0},

	FramePullRequest: {"PullRequest", rangeNone, MaxHandshakeBytes, 0},
	FramePullStart:   {"PullStart", rangeNone, maxTextBytes, 0},

	FrameVerifyRequest: {"VerifyRequest", rangeOnly, 0, MaxVerifyHoleBytes},
	FrameVerifyHashes:  {"VerifyHashes", rangeOnly, maxHashesBytes, MaxVerifyHoleBytes},
	FrameVerifyDiffers: {"VerifyDiffers", rangeNone, MaxBitmapChunkBytes, 0},
	FrameVerifyDone:    {"VerifyDone", rangeNone, maxSmallBytes, 0},
	FrameVerifyMarked:  {"VerifyMarked", rangeNone, 0, 0},
}

// ruleOf returns the rule of t, nil for an unknown type.
func ruleOf(t FrameType) *frameRule {
	if int(t) >= len(frameRules) || frameRules[t].name == "" {
		return nil
	}
	return &frameRules[t]
}

// String is the frame's name in docs/PROTOCOL.md.
func (t FrameType) String() string {
	if rule := ruleOf(t); rule != nil {
		return rule.name
	}
	return fmt.Sprintf("FrameType(%d)", uint16(t))
}

// String names the frame and its fields that are not zero.
func (h Header) String() string {
	s := h.Type.String()
	for _, field := range []struct {
		name  string
		value uint64
	}{
		{"flags", uint64(h.Flags)}, {"volume", uint64(h.Volume)}, {"seq", h.Seq}, {"generation", h.Generation},
		{"offset", h.Offset}, {"length", h.Length}, {"epoch", h.Epoch}, {"payload", uint64(h.PayloadLength)},
	} {
		if field.value != 0 {
			s += fmt.Sprintf(" %s=%d", field.name, field.value)
		}
	}
	return s
}

// castagnoli is the polynomial of every checksum in duet.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// payloadChecksum is the CRC-32C that Header.PayloadCRC carries.
func payloadChecksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// setPayload describes p in the header.
func (h *Header) setPayload(p []byte) {
	h.PayloadLength, h.PayloadCRC = uint32(len(p)), payloadChecksum(p)
}

// Encode writes the header to the first 64 bytes of dst. All integers are little-endian.
//
//	 0       4     6     8      10         12             16
//	+-------+-----+-----+------+----------+--------------+
//	| magic |type |flags|volume| 0        |payload length|
//	+-------+-----+-----+------+----------+--------------+
//	16             24            32            40            48            56            60           64
//	+-------------+-------------+-------------+-------------+-------------+-------------+------------+
//	| sequence    | generation  | offset      | length      | epoch       | payload CRC | header CRC |
//	+-------------+-------------+-------------+-------------+-------------+-------------+------------+
//
// The header CRC is the CRC-32C of the 60 bytes before it.
func (h *Header) Encode(dst []byte) {
	dst = dst[:HeaderBytes]
	le := binary.LittleEndian
	le.PutUint32(dst[0:], frameMagic)
	le.PutUint16(dst[4:], uint16(h.Type))
	le.PutUint16(dst[6:], h.Flags)
	le.PutUint16(dst[8:], h.Volume)
	le.PutUint16(dst[10:], 0)
	le.PutUint32(dst[12:], h.PayloadLength)
	le.PutUint64(dst[16:], h.Seq)
	le.PutUint64(dst[24:], h.Generation)
	le.PutUint64(dst[32:], h.Offset)
	le.PutUint64(dst[40:], h.Length)
	le.PutUint64(dst[48:], h.Epoch)
	le.PutUint32(dst[56:], h.PayloadCRC)
	le.PutUint32(dst[60:], payloadChecksum(dst[:60]))
}

// DecodeHeader reads a header from the first 64 bytes of src and checks everything that the header alone can tell:
// magic, checksum, type, flags, and that no length is above the bound of the type or contradicts another. Whether the
// range lies on the device is the caller's to check.
func DecodeHeader(src []byte) (Header, error) {
	if len(src) < HeaderBytes {
		return Header{}, io.ErrUnexpectedEOF
	}
	src = src[:HeaderBytes]
	le := binary.LittleEndian
	if magic := le.Uint32(src); magic != frameMagic {
		return Header{}, fmt.Errorf("%w: %#08x", errFrameMagic, magic)
	}
	if got, want := le.Uint32(src[60:]), payloadChecksum(src[:60]); got != want {
		return Header{}, fmt.Errorf("%w: carried %#08x, computed %#08x", errFrameHeaderCRC, got, want)
	}
	h := Header{
		Type:          FrameType(le.Uint16(src[4:])),
		Flags:         le.Uint16(src[6:]),
		Volume:        le.Uint16(src[8:]),
		PayloadLength: le.Uint32(src[12:]),
		Seq:           le.Uint64(src[16:]),
		Generation:    le.Uint64(src[24:]),
		Offset:        le.Uint64(src[32:]),
		Length:        le.Uint64(src[40:]),
		Epoch:         le.Uint64(src[48:]),
		PayloadCRC:    le.Uint32(src[56:]),
	}
	if err := h.check(); err != nil {
		return Header{}, err
	}
	return h, nil
}

// check compares the header with the rule of its type.
func (h *Header) check() error {
	rule := ruleOf(h.Type)
	switch {
	case rule == nil:
		return fmt.Errorf("%w: %d", errFrameType, uint16(h.Type))
	case h.Flags&^knownFlags != 0:
		return fmt.Errorf("%w: %s has flags %#x", errFrameFlags, rule.name, h.Flags)
	case h.PayloadLength > rule.maxPayload:
		return fmt.Errorf("%w: %s with %d bytes of payload, at most %d", errFrameTooLong, rule.name, h.PayloadLength, rule.maxPayload)
	case rule.rule == rangeNone:
		return nil
	case h.Length > rule.maxLength:
		return fmt.Errorf("%w: %s of %d bytes, at most %d", errFrameTooLong, rule.name, h.Length, rule.maxLength)
	case h.Length == 0 || h.Offset+h.Length < h.Offset:
		return fmt.Errorf("%w: %s of %d bytes at %d", errFrameLength, rule.name, h.Length, h.Offset)
	case rule.rule == rangePayload:
		return h.checkContent(rule)
	case rule.rule == rangeHashes:
		return h.checkHashes(rule)
	}
	return nil
}

// checkContent compares the payload of a range with the range.
func (h *Header) checkContent(rule *frameRule) error {
	bound := uint64(h.PayloadLength)
	switch {
	case h.Flags&FlagFailed != 0:
		if h.PayloadLength > maxTextBytes {
			return fmt.Errorf("%w: %s with an error text of %d bytes, at most %d", errFrameTooLong, rule.name, h.PayloadLength, maxTextBytes)
		}
		return nil
	case h.Flags&FlagCompressed != 0 && bound > 0 && bound < h.Length:
		return nil
	case bound != h.Length:
		return fmt.Errorf("%w: %s of %d bytes with %d bytes of payload", errFrameLength, rule.name, h.Length, h.PayloadLength)
	}
	return nil
}

// checkHashes compares the number of hashes with the range.
func (h *Header) checkHashes(rule *frameRule) error {
	whole := h.Offset%bitmap.BlockBytes == 0 && h.Length%bitmap.BlockBytes == 0
	if !whole || uint64(h.PayloadLength) != h.Length/bitmap.BlockBytes*compareHashBytes {
		return fmt.Errorf("%w: %s of %d bytes at %d with %d bytes of hashes", errFrameLength, rule.name, h.Length, h.Offset, h.PayloadLength)
	}
	return nil
}

// verifyPayload compares p with the checksum that h carries.
func verifyPayload(h *Header, p []byte) error { return h.compare(payloadChecksum(p)) }

func (h *Header) compare(got uint32) error {
	if got != h.PayloadCRC {
		return fmt.Errorf("%w: %s carries %#08x, computed %#08x", errFramePayloadCRC, h.Type, h.PayloadCRC, got)
	}
	return nil
}
