package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"

	"duet/nbd/internal/wire"
)

const (
	// maxOptionBytes is the largest option that is looked at: two names, or some ten thousand bytes of queries.
	maxOptionBytes = 64 << 10
	// maxDiscardBytes is the largest option that is read away to refuse it politely.
	maxDiscardBytes = 1 << 20
	// maxOptions bounds the options of one negotiation. A client that lists exports asks once for each.
	maxOptions = 4096
	// preferredBlockBytes is the unit that costs least: a page here, a bit of the out-of-sync bitmap behind.
	preferredBlockBytes = 4096
)

// errAborted ends a negotiation because the client said so.
var errAborted = errors.New("the client aborted the negotiation")

// selection is the outcome of a negotiation.
type selection struct {
	export     *Export
	structured bool
	allocation bool
}

// negotiation is the first phase of a connection. The state below it is what options agree on; STARTTLS forgets it,
// because what was said in plaintext may not have been said by the client.
type negotiation struct {
	session     *session
	tlsRequired bool

	fixed    bool // the client knows more than EXPORT_NAME
	noZeroes bool
	tls      bool

	structured     bool
	allocation     bool
	allocationName string // the export name that the selection of the metadata context is for

	out []byte // replies to the current option
}

// run negotiates until the client has chosen an export.
func (n *negotiation) run() (*selection, error) {
	if err := n.greet(); err != nil {
		return nil, err
	}
	for range maxOptions {
		chosen, err := n.nextOption()
		if chosen != nil || err != nil {
			return chosen, err
		}
	}
	return nil, fmt.Errorf("%w: more than %d options", errViolation, maxOptions)
}

// greet exchanges the handshake flags.
func (n *negotiation) greet() error {
	n.out = wire.AppendGreeting(n.out, wire.FlagFixedNewstyle|wire.FlagNoZeroes)
	if err := n.send(); err != nil {
		return err
	}
	src, err := n.session.in.peek(wire.ClientFlagsBytes)
	if err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(src)
	n.session.in.skip(wire.ClientFlagsBytes)
	if known := uint32(wire.FlagFixedNewstyle | wire.FlagNoZeroes); flags&^known != 0 {
		return fmt.Errorf("%w: unknown client flags %#x", errViolation, flags&^known)
	}
	n.fixed = flags&uint32(wire.FlagFixedNewstyle) != 0
	n.noZeroes = flags&uint32(wire.FlagNoZeroes) != 0
	return nil
}

// nextOption reads one option and answers it.
func (n *negotiation) nextOption() (*selection, error) {
	src, err := n.session.in.peek(wire.OptionHeaderBytes)
	if err != nil {
		return nil, err
	}
	header, err := wire.DecodeOptionHeader(src)
	if err != nil {
		return nil, errors.Join(errViolation, err)
	}
	n.session.in.skip(wire.OptionHeaderBytes)
	if header.Length > maxOptionBytes {
		return nil, n.refuseOversize(header)
	}
	data := make([]byte, header.Length)
	if err := n.session.in.readFull(data); err != nil {
		return nil, err
	}
	if n.tlsRequired && !n.tls && header.Option != wire.OptStartTLS && header.Option != wire.OptAbort {
		return nil, n.demandTLS(header.Option)
	}
	chosen, err := n.answer(header.Option, data)
	if err != nil {
		return nil, err
	}
	return chosen, n.send()
}

// answer carries out one option. Its replies are left in out.
func (n *negotiation) answer(option wire.Option, data optionData) (*selection, error) {
	switch option {
	case wire.OptExportName:
		return n.exportName(data)
	case wire.OptAbort:
		n.reply(option, wire.RepAck, nil)
		// A client may have closed without waiting for the answer, which is as good.
		return nil, errors.Join(errAborted, n.send())
	case wire.OptStartTLS:
		return nil, n.startTLS(data)
	case wire.OptList:
		n.list(data)
	case wire.OptStructuredReply:
		n.structuredReply(data)
	case wire.OptInfo, wire.OptGo:
		return n.info(option, data), nil
	case wire.OptListMetaContext, wire.OptSetMetaContext:
		n.metaContext(option, data)
	default:
		n.refuse(option, wire.RepErrUnsup, "this server does not know "+option.String())
	}
	return nil, nil
}

// refuseOversize turns down an option that is too large to look at.
func (n *negotiation) refuseOversize(header wire.OptionHeader) error {
	if header.Length > maxDiscardBytes || header.Option == wire.OptExportName {
		return fmt.Errorf("%w: %v with %d bytes", errViolation, header.Option, header.Length)
	}
	if err := n.session.in.discard(uint64(header.Length)); err != nil {
		return err
	}
	n.refuse(header.Option, wire.RepErrTooBig, "the option is too large")
	return n.send()
}

// demandTLS turns down an option because TLS has to come first. Where no error can be told, it ends the connection.
func (n *negotiation) demandTLS(option wire.Option) error {
	if option == wire.OptExportName || !n.fixed {
		return fmt.Errorf("%w: %v without TLS, which is required", errViolation, option)
	}
	n.refuse(option, wire.RepErrTLSReqd, "this server requires TLS")
	return n.send()
}

// startTLS upgrades the connection. Whatever was received behind the option in plaintext could pass as sent inside TLS
// if it were kept; a client has no business sending it, so its presence ends the connection.
func (n *negotiation) startTLS(data optionData) error {
	settings := n.session.server.tls
	switch {
	case settings == nil || !n.fixed:
		n.refuse(wire.OptStartTLS, wire.RepErrPolicy, "this server has no TLS")
		return nil
	case n.tls:
		n.refuse(wire.OptStartTLS, wire.RepErrInvalid, "TLS has been negotiated already")
		return nil
	case len(data) != 0:
		n.refuse(wire.OptStartTLS, wire.RepErrInvalid, "STARTTLS has no data")
		return nil
	case n.session.in.buffered() != 0:
		return fmt.Errorf("%w: %d bytes of plaintext behind STARTTLS", errViolation, n.session.in.buffered())
	}
	n.reply(wire.OptStartTLS, wire.RepAck, nil)
	if err := n.send(); err != nil {
		return err
	}
	conn := tls.Server(n.session.socket, settings)
	// The deadline of the socket bounds the handshake.
	if err := conn.HandshakeContext(context.Background()); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	n.session.transport = conn
	n.session.in.readFrom(conn)
	n.tls, n.structured, n.allocation, n.allocationName = true, false, false, ""
	return nil
}

// list names the exports.
func (n *negotiation) list(data optionData) {
	if len(data) != 0 {
		n.refuse(wire.OptList, wire.RepErrInvalid, "LIST has no data")
		return
	}
	for _, name := range n.session.server.exports.Names() {
		entry := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
		n.reply(wire.OptList, wire.RepServer, append(entry, name...))
	}
	n.reply(wire.OptList, wire.RepAck, nil)
}

func (n *negotiation) structuredReply(data optionData) {
	if len(data) != 0 {
		n.refuse(wire.OptStructuredReply, wire.RepErrInvalid, "STRUCTURED_REPLY has no data")
		return
	}
	n.structured = true
	n.reply(wire.OptStructuredReply, wire.RepAck, nil)
}

// info describes an export, and with GO chooses it.
func (n *negotiation) info(option wire.Option, data optionData) *selection {
	request, err := parseInfoRequest(data)
	if err != nil {
		n.refuse(option, wire.RepErrInvalid, err.Error())
		return nil
	}
	export, err := n.session.server.open(request.name)
	if err != nil {
		n.refuseExport(option, err)
		return nil
	}
	n.reply(option, wire.RepInfo, n.exportInfo(export))
	n.reply(option, wire.RepInfo, blockSizeInfo())
	if request.wantsInfo(wire.InfoName) {
		n.reply(option, wire.RepInfo, textInfo(wire.InfoName, export.Name))
	}
	if request.wantsInfo(wire.InfoDescription) && export.Description != "" {
		n.reply(option, wire.RepInfo, textInfo(wire.InfoDescription, export.Description))
	}
	n.reply(option, wire.RepAck, nil)
	if option == wire.OptInfo {
		return nil
	}
	return n.choose(export, request.name)
}

// exportName chooses an export in the old way, which has no way to refuse but to close.
func (n *negotiation) exportName(data optionData) (*selection, error) {
	name, err := checkedText(data)
	if err != nil {
		return nil, errors.Join(errViolation, err)
	}
	export, err := n.session.server.open(name)
	if err != nil {
		return nil, fmt.Errorf("export %q: %w", name, err)
	}
	n.out = binary.BigEndian.AppendUint64(n.out, export.Device.SizeBytes())
	n.out = binary.BigEndian.AppendUint16(n.out, uint16(n.transmissionFlags(export)))
	if !n.noZeroes {
		n.out = append(n.out, make([]byte, wire.GreetingPaddingBytes)...)
	}
	return n.choose(export, name), n.send()
}

// choose ends the negotiation. A metadata context counts only if it was selected for the same name.
func (n *negotiation) choose(export *Export, name string) *selection {
	return &selection{
		export:     export,
		structured: n.structured,
		allocation: n.allocation && n.allocationName == name,
	}
}

// metaContext lists or selects metadata contexts. A selection replaces the one before it, even if it fails.
func (n *negotiation) metaContext(option wire.Option, data optionData) {
	if option == wire.OptSetMetaContext {
		n.allocation, n.allocationName = false, ""
	}
	if !n.structured {
		n.refuse(option, wire.RepErrInvalid, "metadata contexts need structured replies")
		return
	}
	request, err := parseMetaRequest(data)
	if err != nil {
		n.refuse(option, wire.RepErrInvalid, err.Error())
		return
	}
	if _, err := n.session.server.open(request.name); err != nil {
		n.refuseExport(option, err)
		return
	}
	switch {
	case option == wire.OptListMetaContext && request.lists():
		n.reply(option, wire.RepMetaContext, contextReply(0)) // the identifier is reserved here
	case option == wire.OptSetMetaContext && request.selects():
		n.allocation, n.allocationName = true, request.name
		n.reply(option, wire.RepMetaContext, contextReply(allocationID))
	}
	n.reply(option, wire.RepAck, nil)
}

// transmissionFlags tells what the export can do.
func (n *negotiation) transmissionFlags(export *Export) wire.TransmissionFlags {
	flags := wire.HasFlags | wire.SendFlush | wire.SendFUA | wire.SendCache | wire.CanMultiConn
	if export.ReadOnly {
		flags |= wire.ReadOnly
	} else {
		flags |= wire.SendTrim | wire.SendWriteZeroes | wire.SendFastZero
	}
	if n.structured {
		flags |= wire.SendDF
	}
	return flags
}

func (n *negotiation) exportInfo(export *Export) []byte {
	p := binary.BigEndian.AppendUint16(nil, uint16(wire.InfoExport))
	p = binary.BigEndian.AppendUint64(p, export.Device.SizeBytes())
	return binary.BigEndian.AppendUint16(p, uint16(n.transmissionFlags(export)))
}

func blockSizeInfo() []byte {
	p := binary.BigEndian.AppendUint16(nil, uint16(wire.InfoBlockSize))
	p = binary.BigEndian.AppendUint32(p, 1) // any alignment is served
	p = binary.BigEndian.AppendUint32(p, preferredBlockBytes)
	return binary.BigEndian.AppendUint32(p, wire.MaxPayloadBytes)
}

func textInfo(info wire.Info, text string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(info)), text...)
}

func contextReply(id uint32) []byte {
	return append(binary.BigEndian.AppendUint32(nil, id), wire.BaseAllocation...)
}

// refuseExport tells why an export can't be had.
func (n *negotiation) refuseExport(option wire.Option, err error) {
	reply := wire.RepErrPolicy
	var refused *Refused
	if errors.As(err, &refused) {
		switch refused.Kind {
		case RefusedUnknown:
			reply = wire.RepErrUnknown
		case RefusedShutdown:
			reply = wire.RepErrShutdown
		}
	}
	n.refuse(option, reply, err.Error())
}

// refuse replies with an error and a text for the client's user.
func (n *negotiation) refuse(option wire.Option, reply wire.OptionReply, reason string) {
	n.session.log.Debug("option refused", "option", option.String(), "reply", reply.String(), "reason", reason)
	n.reply(option, reply, []byte(reason[:min(len(reason), wire.MaxNameBytes)]))
}

func (n *negotiation) reply(option wire.Option, reply wire.OptionReply, data []byte) {
	n.out = wire.OptionReplyHeader{Option: option, Type: reply, Length: uint32(len(data))}.Append(n.out)
	n.out = append(n.out, data...)
}

// send sends the replies. The deadline of the socket bounds it.
func (n *negotiation) send() error {
	if len(n.out) == 0 {
		return nil
	}
	_, err := n.session.transport.Write(n.out)
	n.out = n.out[:0]
	return err
}
