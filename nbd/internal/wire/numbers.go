package wire

import "github.com/pojntfx/go-nbd/pkg/protocol"

// The magic numbers that open each kind of message.
const (
	MagicGreeting        = protocol.NEGOTIATION_MAGIC_OLDSTYLE // "NBDMAGIC", the server's first eight bytes
	MagicOption          = protocol.NEGOTIATION_MAGIC_OPTION   // "IHAVEOPT", in the greeting and before each option
	MagicOptionReply     = protocol.NEGOTIATION_MAGIC_REPLY
	MagicRequest         = protocol.TRANSMISSION_MAGIC_REQUEST
	MagicSimpleReply     = protocol.TRANSMISSION_MAGIC_REPLY
	MagicStructuredReply = uint32(0x668e33ef)
)

// Handshake flags: what the server offers in its greeting and the client repeats in its answer.
const (
	FlagFixedNewstyle = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE
	FlagNoZeroes      = uint16(1 << 1)
)

// Option numbers a request of the negotiation phase.
type Option uint32

// The options of the fixed newstyle negotiation.
const (
	OptExportName      Option = 1
	OptAbort           Option = Option(protocol.NEGOTIATION_ID_OPTION_ABORT)
	OptList            Option = Option(protocol.NEGOTIATION_ID_OPTION_LIST)
	OptStartTLS        Option = 5
	OptInfo            Option = Option(protocol.NEGOTIATION_ID_OPTION_INFO)
	OptGo              Option = Option(protocol.NEGOTIATION_ID_OPTION_GO)
	OptStructuredReply Option = 8
	OptListMetaContext Option = 9
	OptSetMetaContext  Option = 10
	OptExtendedHeaders Option = 11
)

// OptionReply numbers an answer of the negotiation phase; errors have bit 31 set.
type OptionReply uint32

// The option replies.
const (
	RepAck         OptionReply = OptionReply(protocol.NEGOTIATION_TYPE_REPLY_ACK)
	RepServer      OptionReply = OptionReply(protocol.NEGOTIATION_TYPE_REPLY_SERVER)
	RepInfo        OptionReply = OptionReply(protocol.NEGOTIATION_TYPE_REPLY_INFO)
	RepMetaContext OptionReply = 4

	RepErrUnsup    OptionReply = OptionReply(protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED)
	RepErrPolicy   OptionReply = repError + 2
	RepErrInvalid  OptionReply = repError + 3
	RepErrTLSReqd  OptionReply = repError + 5
	RepErrUnknown  OptionReply = OptionReply(protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN)
	RepErrShutdown OptionReply = repError + 7
	RepErrTooBig   OptionReply = repError + 9

	repError OptionReply = 1 << 31
)

// IsError reports whether the reply refuses the option.
func (r OptionReply) IsError() bool { return r&repError != 0 }

// Info numbers a piece of information about an export, asked for and given with OptInfo and OptGo.
type Info uint16

// The kinds of information.
const (
	InfoExport      Info = Info(protocol.NEGOTIATION_TYPE_INFO_EXPORT)
	InfoName        Info = Info(protocol.NEGOTIATION_TYPE_INFO_NAME)
	InfoDescription Info = Info(protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION)
	InfoBlockSize   Info = Info(protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE)
)

// TransmissionFlags tell the client what an export can do.
type TransmissionFlags uint16

// The transmission flags.
const (
	HasFlags        TransmissionFlags = TransmissionFlags(protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS)
	ReadOnly        TransmissionFlags = 1 << 1
	SendFlush       TransmissionFlags = 1 << 2
	SendFUA         TransmissionFlags = 1 << 3
	Rotational      TransmissionFlags = 1 << 4
	SendTrim        TransmissionFlags = 1 << 5
	SendWriteZeroes TransmissionFlags = 1 << 6
	SendDF          TransmissionFlags = 1 << 7
	CanMultiConn    TransmissionFlags = TransmissionFlags(protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN)
	SendCache       TransmissionFlags = 1 << 10
	SendFastZero    TransmissionFlags = 1 << 11
)

// Command numbers a request of the transmission phase.
type Command uint16

// The commands.
const (
	CmdRead        Command = Command(protocol.TRANSMISSION_TYPE_REQUEST_READ)
	CmdWrite       Command = Command(protocol.TRANSMISSION_TYPE_REQUEST_WRITE)
	CmdDisc        Command = Command(protocol.TRANSMISSION_TYPE_REQUEST_DISC)
	CmdFlush       Command = 3
	CmdTrim        Command = 4
	CmdCache       Command = 5
	CmdWriteZeroes Command = 6
	CmdBlockStatus Command = 7
)

// CommandFlags modify one command.
type CommandFlags uint16

// The command flags.
const (
	FlagFUA      CommandFlags = 1 << 0
	FlagNoHole   CommandFlags = 1 << 1
	FlagDF       CommandFlags = 1 << 2
	FlagReqOne   CommandFlags = 1 << 3
	FlagFastZero CommandFlags = 1 << 4
)

// ChunkType says what a structured reply chunk carries; errors have bit 15 set.
type ChunkType uint16

// The chunk types.
const (
	ChunkNone        ChunkType = 0
	ChunkOffsetData  ChunkType = 1
	ChunkOffsetHole  ChunkType = 2
	ChunkBlockStatus ChunkType = 5
	ChunkError       ChunkType = 1<<15 + 1
	ChunkErrorOffset ChunkType = 1<<15 + 2
)

// IsError reports whether the chunk says that its request failed.
func (t ChunkType) IsError() bool { return t&(1<<15) != 0 }

// ChunkDone marks the last chunk of a structured reply.
const ChunkDone = uint16(1 << 0)

// Errno is an error number of the protocol, which equals Linux's for the few that it has.
type Errno uint32

// The error numbers.
const (
	EPERM     Errno = Errno(protocol.TRANSMISSION_ERROR_EPERM)
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = Errno(protocol.TRANSMISSION_ERROR_EINVAL)
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// Flags of a descriptor in the metadata context base:allocation.
const (
	StateHole = uint32(1 << 0)
	StateZero = uint32(1 << 1)
)

// BaseAllocation is the one metadata context that the specification defines.
const BaseAllocation = "base:allocation"

// Bounds of the protocol.
const (
	// MaxNameBytes is the longest string that the specification allows.
	MaxNameBytes = 4096
	// MaxPayloadBytes is the largest READ or WRITE served: the size that every server has to accept.
	MaxPayloadBytes = 32 << 20
	// GreetingPaddingBytes follow the answer to OptExportName unless both sides agreed on FlagNoZeroes.
	GreetingPaddingBytes = 124
)
