package mux

import (
	"errors"
	"fmt"
)

var (
	// ErrVersion is returned when the other end speaks another version of
	// the protocol; the text says which.
	ErrVersion = errors.New("incompatible versions")
	// ErrNotDuet is returned when what the other end says is not this
	// protocol at all.
	ErrNotDuet = errors.New("it does not speak duet's protocol")
	// ErrRefused is returned by Dial when the other end says no; the text
	// says why, in its words.
	ErrRefused = errors.New("refused")
	// ErrInsecure is returned for an address that isn't of this machine
	// alone, when TLS is off.
	ErrInsecure = errors.New("without TLS (--insecure) only loopback addresses are allowed")
	// ErrOtherNode is returned by Dial, without TLS, when another node
	// answers than the one meant. With TLS it is pki.ErrOtherNode.
	ErrOtherNode = errors.New("another node answers there")
	// ErrChannel is returned by Mux.Channel for a channel that is unknown or
	// has a listener already.
	ErrChannel = errors.New("no such channel to listen on")
)

// OtherRecovery is returned by Dial when the quorum of the other end's cluster was rebuilt more often, or less often, than this node's: one
// of the two belongs to the time before, and has no say any more.
type OtherRecovery struct{ Mine, Theirs uint64 }

// Outlived reports whether it is this node that was left behind.
func (e *OtherRecovery) Outlived() bool { return e.Theirs > e.Mine }

// Error implements error.
func (e *OtherRecovery) Error() string {
	if e.Outlived() {
		return fmt.Sprintf("the quorum was rebuilt without this node (recovery %d, this node knows of %d)", e.Theirs, e.Mine)
	}
	return fmt.Sprintf("it is of the time before the quorum was rebuilt (recovery %d, it knows of %d); it has to join again", e.Mine, e.Theirs)
}
