package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrBadMagic is returned when a message does not open with its magic number: the framing is lost and the connection
// with it.
var ErrBadMagic = errors.New("wrong magic number")

// Sizes of the fixed messages, in bytes.
const (
	GreetingBytes          = 18
	ClientFlagsBytes       = 4
	OptionHeaderBytes      = 16
	OptionReplyHeaderBytes = 20
	RequestBytes           = 28
	SimpleReplyBytes       = 16
	ChunkHeaderBytes       = 20
	// ChunkOffsetBytes precede the data of an OFFSET_DATA chunk.
	ChunkOffsetBytes = 8
	// ChunkErrorBytes precede the text of an ERROR chunk.
	ChunkErrorBytes = 6
	// ExtentBytes is one descriptor of a BLOCK_STATUS chunk, which opens with ContextIDBytes.
	ExtentBytes    = 8
	ContextIDBytes = 4
)

// AppendGreeting appends the server's first message.
//
//	0              8              16     18
//	| "NBDMAGIC"   | "IHAVEOPT"   | flags |
func AppendGreeting(dst []byte, flags uint16) []byte {
	dst = binary.BigEndian.AppendUint64(dst, MagicGreeting)
	dst = binary.BigEndian.AppendUint64(dst, MagicOption)
	return binary.BigEndian.AppendUint16(dst, flags)
}

// DecodeGreeting returns the handshake flags of a server's first message.
func DecodeGreeting(src []byte) (flags uint16, err error) {
	if binary.BigEndian.Uint64(src) != MagicGreeting || binary.BigEndian.Uint64(src[8:]) != MagicOption {
		return 0, fmt.Errorf("greeting %x: %w", src[:16], ErrBadMagic)
	}
	return binary.BigEndian.Uint16(src[16:GreetingBytes]), nil
}

// OptionHeader precedes the data of an option.
//
//	0              8         12        16
//	| "IHAVEOPT"   | option  | length  | data ...
type OptionHeader struct {
	Option Option
	Length uint32
}

// Append appends the header's wire form.
func (h OptionHeader) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, MagicOption)
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.Option))
	return binary.BigEndian.AppendUint32(dst, h.Length)
}

// DecodeOptionHeader decodes the first OptionHeaderBytes of src. The length is as the client claims, unchecked.
func DecodeOptionHeader(src []byte) (OptionHeader, error) {
	if magic := binary.BigEndian.Uint64(src); magic != MagicOption {
		return OptionHeader{}, fmt.Errorf("option opens with %#x: %w", magic, ErrBadMagic)
	}
	return OptionHeader{
		Option: Option(binary.BigEndian.Uint32(src[8:])),
		Length: binary.BigEndian.Uint32(src[12:OptionHeaderBytes]),
	}, nil
}

// OptionReplyHeader precedes the data of an option reply.
//
//	0              8         12      16        20
//	| reply magic  | option  | type  | length  | data ...
type OptionReplyHeader struct {
	Option Option
	Type   OptionReply
	Length uint32
}

// Append appends the header's wire form.
func (h OptionReplyHeader) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, MagicOptionReply)
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.Option))
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.Type))
	return binary.BigEndian.AppendUint32(dst, h.Length)
}

// DecodeOptionReplyHeader decodes the first OptionReplyHeaderBytes of src.
func DecodeOptionReplyHeader(src []byte) (OptionReplyHeader, error) {
	if magic := binary.BigEndian.Uint64(src); magic != MagicOptionReply {
		return OptionReplyHeader{}, fmt.Errorf("option reply opens with %#x: %w", magic, ErrBadMagic)
	}
	return OptionReplyHeader{
		Option: Option(binary.BigEndian.Uint32(src[8:])),
		Type:   OptionReply(binary.BigEndian.Uint32(src[12:])),
		Length: binary.BigEndian.Uint32(src[16:OptionReplyHeaderBytes]),
	}, nil
}

// Request is the header of a command. Only a WRITE is followed by a payload, of Length bytes.
//
//	0         4       6         8            16           24        28
//	| magic   | flags | command | cookie     | offset     | length  | payload ...
type Request struct {
	Flags   CommandFlags
	Command Command
	Cookie  uint64
	Offset  uint64
	Length  uint32
}

// Append appends the request's wire form.
func (r Request) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, MagicRequest)
	dst = binary.BigEndian.AppendUint16(dst, uint16(r.Flags))
	dst = binary.BigEndian.AppendUint16(dst, uint16(r.Command))
	dst = binary.BigEndian.AppendUint64(dst, r.Cookie)
	dst = binary.BigEndian.AppendUint64(dst, r.Offset)
	return binary.BigEndian.AppendUint32(dst, r.Length)
}

// DecodeRequest decodes the first RequestBytes of src. Nothing but the magic number is checked.
func DecodeRequest(src []byte) (Request, error) {
	if magic := binary.BigEndian.Uint32(src); magic != MagicRequest {
		return Request{}, fmt.Errorf("request opens with %#x: %w", magic, ErrBadMagic)
	}
	return Request{
		Flags:   CommandFlags(binary.BigEndian.Uint16(src[4:])),
		Command: Command(binary.BigEndian.Uint16(src[6:])),
		Cookie:  binary.BigEndian.Uint64(src[8:]),
		Offset:  binary.BigEndian.Uint64(src[16:]),
		Length:  binary.BigEndian.Uint32(src[24:RequestBytes]),
	}, nil
}

// AppendSimpleReply appends a simple reply's header; the data of a READ follows it.
//
//	0         4        8            16
//	| magic   | error  | cookie     | data of a READ ...
func AppendSimpleReply(dst []byte, errno Errno, cookie uint64) []byte {
	dst = binary.BigEndian.AppendUint32(dst, MagicSimpleReply)
	dst = binary.BigEndian.AppendUint32(dst, uint32(errno))
	return binary.BigEndian.AppendUint64(dst, cookie)
}

// Chunk is the header of one piece of a structured reply.
//
//	0         4       6       8            16        20
//	| magic   | flags | type  | cookie     | length  | payload ...
type Chunk struct {
	Flags  uint16
	Type   ChunkType
	Cookie uint64
	Length uint32
}

// Append appends the chunk header's wire form.
func (c Chunk) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, MagicStructuredReply)
	dst = binary.BigEndian.AppendUint16(dst, c.Flags)
	dst = binary.BigEndian.AppendUint16(dst, uint16(c.Type))
	dst = binary.BigEndian.AppendUint64(dst, c.Cookie)
	return binary.BigEndian.AppendUint32(dst, c.Length)
}

// DecodeChunk decodes the first ChunkHeaderBytes of src, whose magic the caller has seen.
func DecodeChunk(src []byte) Chunk {
	return Chunk{
		Flags:  binary.BigEndian.Uint16(src[4:]),
		Type:   ChunkType(binary.BigEndian.Uint16(src[6:])),
		Cookie: binary.BigEndian.Uint64(src[8:]),
		Length: binary.BigEndian.Uint32(src[16:ChunkHeaderBytes]),
	}
}
