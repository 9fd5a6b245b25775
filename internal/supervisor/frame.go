package supervisor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Messages are frames:
//
//	 0               4
//	+---------------+----------------------- - -
//	| length        | one JSON object
//	+---------------+----------------------- - -
//
// The length is little-endian and counts the JSON alone.
const (
	frameHeaderBytes = 4
	maxReportBytes   = 1 << 10  // a name of 63 bytes, and room
	maxRequestBytes  = 64 << 10 // 64 names and addresses
	protocolVersion  = 1
)

// ErrFrame is returned for what is not as documented.
var ErrFrame = errors.New("not a message of the supervisor's protocol")

// encodeFrame makes a frame of a message, which may not be bigger than limit.
func encodeFrame(message any, limit int) ([]byte, error) {
	body, err := json.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	if len(body) > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrFrame, len(body), limit)
	}
	frame := binary.LittleEndian.AppendUint32(make([]byte, 0, frameHeaderBytes+len(body)), uint32(len(body)))
	return append(frame, body...), nil
}

// writeFrame sends a message.
func writeFrame(w io.Writer, message any, limit int) error {
	frame, err := encodeFrame(message, limit)
	if err != nil {
		return err
	}
	_, err = w.Write(frame)
	return err
}

// readFrame reads one frame into message, and nothing behind it. The length is checked before it is used.
func readFrame(r io.Reader, message any, limit int) error {
	var header [frameHeaderBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return err
	}
	length := binary.LittleEndian.Uint32(header[:])
	if length == 0 || int64(length) > int64(limit) {
		return fmt.Errorf("%w: %d bytes, 1 to %d are allowed", ErrFrame, length, limit)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, message); err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return nil
}
