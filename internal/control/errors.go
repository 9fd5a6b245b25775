package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Code says what kind of failure an Error is. It decides the HTTP status and the exit code of a command.
type Code string

// The codes.
const (
	CodeUsage       Code = "usage"       // the request makes no sense, whatever the state
	CodeRefused     Code = "refused"     // not now, not in this state, or not without force
	CodeNotFound    Code = "not-found"   // no such resource, node or peer
	CodeForbidden   Code = "forbidden"   // not from there
	CodeUnreachable Code = "unreachable" // the daemon, a peer that is needed, or a majority
	CodeTimeout     Code = "timeout"     // it may still happen
	CodeInternal    Code = "internal"    // everything else
)

// Error is a failure as the operator is to see it: one line of what and why, and one of what to do.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Error returns the message without the hint, which is shown on a line of its own.
func (e *Error) Error() string { return e.Message }

// Errorf makes an Error without a hint.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy of e that says what to do.
func (e *Error) WithHint(format string, args ...any) *Error {
	return &Error{Code: e.Code, Message: e.Message, Hint: fmt.Sprintf(format, args...)}
}

// AsError finds the Error in err's chain, or makes one of it: CodeTimeout for a context that ran out, else
// CodeInternal.
func AsError(err error) *Error {
	var found *Error
	switch {
	case errors.As(err, &found):
		return found
	case errors.Is(err, context.DeadlineExceeded):
		return Errorf(CodeTimeout, "%v", err)
	default:
		return Errorf(CodeInternal, "%v", err)
	}
}

// Exit codes of the duet command.
const (
	ExitDone        = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitUnreachable = 3
	ExitTimeout     = 4
)

// outcomes ties each code to its HTTP status and exit code.
var outcomes = map[Code]struct{ status, exit int }{
	CodeUsage:       {http.StatusBadRequest, ExitUsage},
	CodeRefused:     {http.StatusConflict, ExitFailed},
	CodeNotFound:    {http.StatusNotFound, ExitFailed},
	CodeForbidden:   {http.StatusForbidden, ExitFailed},
	CodeUnreachable: {http.StatusServiceUnavailable, ExitUnreachable},
	CodeTimeout:     {http.StatusGatewayTimeout, ExitTimeout},
	CodeInternal:    {http.StatusInternalServerError, ExitFailed},
}

// ExitCode returns the exit code of a command that ended with err.
func ExitCode(err error) int {
	if err == nil {
		return ExitDone
	}
	return outcome(AsError(err).Code).exit
}

// outcome treats a code of a newer version as an internal failure.
func outcome(code Code) struct{ status, exit int } {
	if o, ok := outcomes[code]; ok {
		return o
	}
	return outcomes[CodeInternal]
}
