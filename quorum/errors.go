package quorum

import (
	"errors"
	"fmt"
)

var (
	// ErrStale: the resource's Generation is not the one the command was made for. Nothing was changed; the Result
	// carries the record as it is.
	ErrStale = errors.New("quorum: the record has changed meanwhile")

	// ErrRefused: the command was committed and its guard said no. Nothing was changed. The error's text says why.
	ErrRefused = errors.New("quorum: refused")

	// ErrNoLeader: no leader could be reached in time. The command was certainly not executed.
	ErrNoLeader = errors.New("quorum: no leader can be reached")

	// ErrUnknownOutcome: the command was handed over and no answer came. It may be committed now, later or never.
	ErrUnknownOutcome = errors.New("quorum: the outcome of the command is unknown")

	// ErrStore: the Raft log store failed or was slower than its deadline. This node takes no part in the vote until
	// it is restarted; it can still forward commands to the others.
	ErrStore = errors.New("quorum: the log store has failed")

	// ErrStoreLost: Config.Member says that this node was part of a cluster, and its store knows of nothing.
	ErrStoreLost = errors.New("quorum: the log store is gone or empty")

	// ErrClosed: the node is closed, or is closing.
	ErrClosed = errors.New("quorum: closed")

	// ErrDamaged: a snapshot is torn, truncated or breaks an invariant of the record.
	ErrDamaged = errors.New("quorum: damaged snapshot")

	// ErrFrame: a message from another node is malformed or too big.
	ErrFrame = errors.New("quorum: bad frame")
)

// code says how a command ended. It is part of the forward protocol and of what the state machine returns.
type code string

const (
	codeOK       code = "ok"
	codeStale    code = "stale"
	codeRefused  code = "refused"
	codeNoLeader code = "no-leader"
	codeUnknown  code = "unknown"
)

// outcomeError is an error that errors.Is matches with the sentinel of its code, and whose text is for a person.
type outcomeError struct {
	sentinel error
	reason   string
}

func (e *outcomeError) Error() string {
	if e.reason == "" {
		return e.sentinel.Error()
	}
	return e.sentinel.Error() + ": " + e.reason
}

func (e *outcomeError) Unwrap() error { return e.sentinel }

// Reason returns why a command was refused, without the prefix that Error has; "" for any other error.
func Reason(err error) string {
	var o *outcomeError
	if errors.As(err, &o) {
		return o.reason
	}
	return ""
}

func refusef(format string, args ...any) error {
	return &outcomeError{sentinel: ErrRefused, reason: fmt.Sprintf(format, args...)}
}

func stalef(format string, args ...any) error {
	return &outcomeError{sentinel: ErrStale, reason: fmt.Sprintf(format, args...)}
}

// codeOf and errorOf are inverse: they carry an error across the wire and back.
func codeOf(err error) code {
	switch {
	case err == nil:
		return codeOK
	case errors.Is(err, ErrStale):
		return codeStale
	case errors.Is(err, ErrRefused):
		return codeRefused
	case errors.Is(err, ErrNoLeader):
		return codeNoLeader
	default:
		return codeUnknown
	}
}

func errorOf(c code, reason string) error {
	sentinel := ErrUnknownOutcome
	switch c {
	case codeOK:
		return nil
	case codeStale:
		sentinel = ErrStale
	case codeRefused:
		sentinel = ErrRefused
	case codeNoLeader:
		sentinel = ErrNoLeader
	}
	return &outcomeError{sentinel: sentinel, reason: reason}
}
