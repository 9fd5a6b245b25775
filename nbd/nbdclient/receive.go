package nbdclient

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"duet/nbd/internal/wire"
)

// receiveBufferBytes collects many small replies in one read.
const receiveBufferBytes = 256 << 10

// maxErrorTextBytes bounds the text of an error chunk, as the specification does.
const maxErrorTextBytes = wire.MaxNameBytes

// errProtocol says that the server's replies make no sense, after which nothing can be trusted.
var errProtocol = errors.New("NBD server broke the protocol")

// receive reads replies and runs the callbacks of their requests. It owns the reading side; the server's bytes wake it;
// it ends with the connection.
func (c *Client) receive() {
	in := bufio.NewReaderSize(c.conn, receiveBufferBytes)
	for {
		if err := c.receiveOne(in); err != nil {
			c.fail(err)
			c.failAll()
			close(c.received)
			return
		}
	}
}

// failAll tells those that wait for an answer that there will be none. Nobody is registered any more by now.
func (c *Client) failAll() {
	c.mu.Lock()
	calls, err := c.calls, c.err
	c.calls = nil
	c.mu.Unlock()
	for _, waiting := range calls {
		<-c.window
		waiting.done(err)
	}
}

func (c *Client) receiveOne(in *bufio.Reader) error {
	magic, err := in.Peek(4)
	if err != nil {
		return err
	}
	switch binary.BigEndian.Uint32(magic) {
	case wire.MagicSimpleReply:
		return c.receiveSimple(in)
	case wire.MagicStructuredReply:
		return c.receiveChunk(in)
	}
	return fmt.Errorf("%w: reply opens with %x", errProtocol, magic)
}

func (c *Client) receiveSimple(in *bufio.Reader) error {
	var src [wire.SimpleReplyBytes]byte
	if _, err := io.ReadFull(in, src[:]); err != nil {
		return err
	}
	cookie, errno := binary.BigEndian.Uint64(src[8:]), binary.BigEndian.Uint32(src[4:])
	waiting, err := c.find(cookie)
	if err != nil {
		return err
	}
	if errno != 0 {
		c.finish(cookie, &RequestError{Op: waiting.op, Errno: syscall.Errno(errno)})
		return nil
	}
	if waiting.op == Read && c.structured {
		return fmt.Errorf("%w: simple reply to a READ", errProtocol)
	}
	if _, err := io.ReadFull(in, waiting.data); err != nil {
		return err
	}
	c.finish(cookie, nil)
	return nil
}

func (c *Client) receiveChunk(in *bufio.Reader) error {
	var src [wire.ChunkHeaderBytes]byte
	if _, err := io.ReadFull(in, src[:]); err != nil {
		return err
	}
	chunk := wire.DecodeChunk(src[:])
	waiting, err := c.find(chunk.Cookie)
	if err != nil {
		return err
	}
	switch {
	case chunk.Type == wire.ChunkNone && chunk.Length == 0:
	case chunk.Type == wire.ChunkOffsetData:
		err = waiting.receiveData(in, chunk)
	case chunk.Type == wire.ChunkOffsetHole:
		err = waiting.receiveHole(in, chunk)
	case chunk.Type.IsError():
		err = waiting.receiveError(in, chunk)
	default:
		err = fmt.Errorf("%w: chunk of type %d with %d bytes", errProtocol, chunk.Type, chunk.Length)
	}
	if err != nil {
		return err
	}
	if chunk.Flags&wire.ChunkDone == 0 {
		return nil
	}
	if waiting.failure == nil && waiting.received != uint64(len(waiting.data)) {
		return fmt.Errorf("%w: %d of %d bytes read", errProtocol, waiting.received, len(waiting.data))
	}
	c.finish(chunk.Cookie, waiting.failure)
	return nil
}

// receiveData reads a piece of a READ straight to its place.
func (w *call) receiveData(in *bufio.Reader, chunk wire.Chunk) error {
	if chunk.Length <= wire.ChunkOffsetBytes {
		return fmt.Errorf("%w: data chunk of %d bytes", errProtocol, chunk.Length)
	}
	place, err := w.place(in, chunk.Length-wire.ChunkOffsetBytes)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(in, place)
	return err
}

// receiveHole fills a piece of a READ with zeroes.
func (w *call) receiveHole(in *bufio.Reader, chunk wire.Chunk) error {
	src, err := in.Peek(12)
	if err != nil || chunk.Length != 12 {
		return errors.Join(err, fmt.Errorf("%w: hole chunk of %d bytes", errProtocol, chunk.Length))
	}
	place, err := w.place(in, binary.BigEndian.Uint32(src[8:]))
	if err != nil {
		return err
	}
	clear(place)
	_, err = in.Discard(4)
	return err
}

// place reads the offset of a piece of a READ and returns where it belongs.
func (w *call) place(in *bufio.Reader, length uint32) ([]byte, error) {
	var src [wire.ChunkOffsetBytes]byte
	if _, err := io.ReadFull(in, src[:]); err != nil {
		return nil, err
	}
	offset := binary.BigEndian.Uint64(src[:])
	from := offset - w.offset
	if offset < w.offset || from > uint64(len(w.data)) || uint64(length) > uint64(len(w.data))-from {
		return nil, fmt.Errorf("%w: %d bytes at %d for a READ of %d at %d", errProtocol, length, offset, len(w.data), w.offset)
	}
	w.received += uint64(length)
	return w.data[from : from+uint64(length)], nil
}

// receiveError notes the failure of a request; the first one counts.
func (w *call) receiveError(in *bufio.Reader, chunk wire.Chunk) error {
	var src [wire.ChunkErrorBytes]byte
	if _, err := io.ReadFull(in, src[:]); err != nil {
		return err
	}
	errno, textBytes := binary.BigEndian.Uint32(src[:]), uint32(binary.BigEndian.Uint16(src[4:]))
	if errno == 0 || textBytes > maxErrorTextBytes || chunk.Length < wire.ChunkErrorBytes+textBytes ||
		chunk.Length > wire.ChunkErrorBytes+textBytes+64 {
		return fmt.Errorf("%w: error chunk of %d bytes, error %d, text of %d bytes", errProtocol, chunk.Length, errno, textBytes)
	}
	text := make([]byte, chunk.Length-wire.ChunkErrorBytes)
	if _, err := io.ReadFull(in, text); err != nil {
		return err
	}
	if w.failure == nil {
		w.failure = &RequestError{
			Op: w.op, Errno: syscall.Errno(errno), Message: strings.ToValidUTF8(string(text[:textBytes]), ""),
		}
	}
	return nil
}

// find returns the request that a reply belongs to.
func (c *Client) find(cookie uint64) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	waiting, ok := c.calls[cookie]
	if !ok {
		return nil, fmt.Errorf("%w: reply to a request %d that is not in flight", errProtocol, cookie)
	}
	return waiting, nil
}

// finish ends a request. Its place among those in flight is free before its callback
// runs, so that the callback may start another one.
func (c *Client) finish(cookie uint64, err error) {
	c.mu.Lock()
	waiting := c.calls[cookie]
	delete(c.calls, cookie)
	c.mu.Unlock()
	<-c.window
	waiting.done(err)
}
