package nbdclient

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"duet/nbd/internal/wire"
)

// maxOptionReplyBytes bounds what is read for one option reply: a name and a text of the longest legal size.
const maxOptionReplyBytes = 16 << 10

// handshake is the negotiation as seen by the client.
type handshake struct {
	conn       net.Conn
	cfg        Config
	structured bool
	sizeBytes  uint64
	flags      wire.TransmissionFlags
	described  bool // INFO_EXPORT was received
}

// negotiate chooses the export of cfg. It reads not a byte beyond the server's last reply.
func negotiate(ctx context.Context, conn net.Conn, cfg Config) (*handshake, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.HandshakeTimeout)
	defer cancel()
	interrupted := make(chan error, 1)
	unwatch := context.AfterFunc(ctx, func() { interrupted <- conn.SetDeadline(time.Unix(1, 0)) })
	h := &handshake{conn: conn, cfg: cfg}
	err := h.run(ctx)
	if !unwatch() {
		return nil, errors.Join(context.Cause(ctx), <-interrupted)
	}
	return h, err
}

func (h *handshake) run(ctx context.Context) error {
	if err := h.greet(); err != nil {
		return err
	}
	if h.cfg.TLS != nil {
		if err := h.startTLS(ctx); err != nil {
			return err
		}
	}
	if !h.cfg.Simple {
		err := h.option(wire.OptStructuredReply, nil)
		var refused *RefusedError
		if err != nil && !errors.As(err, &refused) {
			return err
		}
		h.structured = err == nil
	}
	data := binary.BigEndian.AppendUint32(nil, uint32(len(h.cfg.Export)))
	data = append(data, h.cfg.Export...)
	data = binary.BigEndian.AppendUint16(data, 0)
	if err := h.option(wire.OptGo, data); err != nil {
		return err
	}
	if !h.described {
		return errors.New("NBD server chose an export without describing it")
	}
	return nil
}

func (h *handshake) greet() error {
	var greeting [wire.GreetingBytes]byte
	if _, err := io.ReadFull(h.conn, greeting[:]); err != nil {
		return err
	}
	offered, err := wire.DecodeGreeting(greeting[:])
	if err != nil {
		return err
	}
	if offered&wire.FlagFixedNewstyle == 0 {
		return errors.New("NBD server is too old: it does not know the fixed newstyle negotiation")
	}
	flags := offered & (wire.FlagFixedNewstyle | wire.FlagNoZeroes)
	_, err = h.conn.Write(binary.BigEndian.AppendUint32(nil, uint32(flags)))
	return err
}

func (h *handshake) startTLS(ctx context.Context) error {
	if err := h.option(wire.OptStartTLS, nil); err != nil {
		return err
	}
	conn := tls.Client(h.conn, h.cfg.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	h.conn = conn
	return nil
}

// option sends an option and reads its replies up to the last one.
func (h *handshake) option(option wire.Option, data []byte) error {
	message := wire.OptionHeader{Option: option, Length: uint32(len(data))}.Append(nil)
	if _, err := h.conn.Write(append(message, data...)); err != nil {
		return err
	}
	for {
		reply, data, err := h.readReply(option)
		switch {
		case err != nil:
			return err
		case reply == wire.RepAck:
			return nil
		case reply.IsError():
			return &RefusedError{Option: option.String(), Reply: reply.String(), Message: string(data)}
		case reply == wire.RepInfo:
			h.learn(data)
		}
	}
}

func (h *handshake) readReply(option wire.Option) (wire.OptionReply, []byte, error) {
	var src [wire.OptionReplyHeaderBytes]byte
	if _, err := io.ReadFull(h.conn, src[:]); err != nil {
		return 0, nil, err
	}
	header, err := wire.DecodeOptionReplyHeader(src[:])
	switch {
	case err != nil:
		return 0, nil, err
	case header.Option != option:
		return 0, nil, fmt.Errorf("NBD server answered %v instead of %v", header.Option, option)
	case header.Length > maxOptionReplyBytes:
		return 0, nil, fmt.Errorf("NBD server sent %d bytes in reply to %v", header.Length, option)
	}
	data := make([]byte, header.Length)
	_, err = io.ReadFull(h.conn, data)
	return header.Type, data, err
}

// learn takes up what the server says about the export.
func (h *handshake) learn(info []byte) {
	if len(info) != 12 || wire.Info(binary.BigEndian.Uint16(info)) != wire.InfoExport {
		return
	}
	h.sizeBytes = binary.BigEndian.Uint64(info[2:])
	h.flags = wire.TransmissionFlags(binary.BigEndian.Uint16(info[10:]))
	h.described = true
}
