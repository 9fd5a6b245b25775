package quorum

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// Messages between nodes, on the channel "forward" and at the start of a stream of the channel "raft", are frames:
//
//	 0               4
//	+---------------+----------------------- - -
//	| length        | one JSON object
//	+---------------+----------------------- - -
//
// The length is little-endian and counts the JSON alone.
const (
	frameHeaderBytes = 4
	maxHelloBytes    = 4 << 10
	maxRequestBytes  = maxCommandBytes + 16<<10 // a command, and what routes it
	maxReplyBytes    = 1 << 20                  // above a record with a full history in which every reason needs escaping
	forwardVersion   = 1
)

// operation is what a forwarded request asks the leader to do.
type operation string

const (
	opPropose     operation = "propose"      // commit Command
	opRead        operation = "read"         // return the record of Resource after a committed mark
	opAddNonvoter operation = "add-nonvoter" // let Node receive the log
	opAddVoter    operation = "add-voter"    // let Node vote
	opRemoveVoter operation = "remove-voter" // take Node out of the Raft configuration
	opTransfer    operation = "transfer"     // hand leadership to Node, or to anyone if it is ""
)

// request travels to the leader.
type request struct {
	Version       int             `json:"v"`
	Op            operation       `json:"op"`
	TimeoutMillis int64           `json:"timeout_ms"` // what is left of the proposer's patience
	Hops          int             `json:"hops"`       // how often it may still be handed on
	Visited       []string        `json:"visited"`    // nodes that have had it
	Repeatable    bool            `json:"repeatable"` // doing it twice is doing it once: try again when the outcome is unknown
	Command       json.RawMessage `json:"command,omitempty"`
	Resource      string          `json:"resource,omitempty"`
	Node          string          `json:"node,omitempty"`
	Address       string          `json:"address,omitempty"`
}

// reply travels back the same way.
type reply struct {
	Version int    `json:"v"`
	Code    code   `json:"code"`
	Reason  string `json:"reason,omitempty"`
	Result  Result `json:"result"`
}

// writeFrame sends message, which may not be bigger than limit.
func writeFrame(w io.Writer, message any, limit int) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	if len(body) > limit {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrFrame, len(body), limit)
	}
	frame := binary.LittleEndian.AppendUint32(make([]byte, 0, frameHeaderBytes+len(body)), uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("quorum: send: %w", err)
	}
	return nil
}

// readFrame reads one frame into message and nothing behind it. The length is checked before it is used.
func readFrame(r io.Reader, message any, limit int) error {
	var header [frameHeaderBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return fmt.Errorf("quorum: receive: %w", err)
	}
	length := binary.LittleEndian.Uint32(header[:])
	if length == 0 || int64(length) > int64(limit) {
		return fmt.Errorf("%w: %d bytes, 1 to %d are allowed", ErrFrame, length, limit)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("quorum: receive: %w", err)
	}
	if err := json.Unmarshal(body, message); err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return nil
}

// readRequest reads a request and checks what its receiver relies on.
func readRequest(r io.Reader) (request, error) {
	var q request
	if err := readFrame(r, &q, maxRequestBytes); err != nil {
		return request{}, err
	}
	switch {
	case q.Version != forwardVersion:
		return request{}, fmt.Errorf("%w: version %d, this node knows %d", ErrFrame, q.Version, forwardVersion)
	case q.Hops < 0 || q.Hops > maxHops:
		return request{}, fmt.Errorf("%w: %d hops", ErrFrame, q.Hops)
	case len(q.Visited) > maxHops+1:
		return request{}, fmt.Errorf("%w: %d nodes visited", ErrFrame, len(q.Visited))
	case q.TimeoutMillis <= 0:
		return request{}, fmt.Errorf("%w: %d ms left", ErrFrame, q.TimeoutMillis)
	}
	return q, nil
}

// readReply reads a reply. One of another version, or with a code unknown here, leaves the outcome unknown.
func readReply(r io.Reader) (reply, error) {
	var a reply
	if err := readFrame(r, &a, maxReplyBytes); err != nil {
		return reply{}, err
	}
	switch a.Code {
	case codeOK, codeStale, codeRefused, codeNoLeader, codeUnknown:
	default:
		return reply{}, fmt.Errorf("%w: code %q", ErrFrame, a.Code)
	}
	if a.Version != forwardVersion {
		return reply{}, fmt.Errorf("%w: version %d, this node knows %d", ErrFrame, a.Version, forwardVersion)
	}
	if a.Result.Resource != nil {
		if err := a.Result.Resource.check(); err != nil {
			return reply{}, fmt.Errorf("%w: record: %w", ErrFrame, err)
		}
	}
	return a, nil
}
