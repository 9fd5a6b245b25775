package nbd

import (
	"context"
	"fmt"
)

// Flusher sends what has been queued in it.
type Flusher = interface{ Flush() }

// Batch collects what should be sent once, at the end of a burst of work. More reports whether another request follows
// at once. A Batch is valid only during the call that it is passed to.
type Batch = interface {
	Defer(f interface{ Flush() })
	More() bool
}

// Completion is how a device finishes a request: exactly once, from any goroutine, possibly before the submitting call
// has returned. With a nil Batch the reply is sent at once; else it is queued and goes out at the end of the burst.
type Completion = interface {
	Complete(b interface {
		Defer(f interface{ Flush() })
		More() bool
	}, err error)
}

// Device is a block device. Its methods but SizeBytes and Extents start a request and are called from the goroutine
// that reads the client's connection: while they run, that client's next request waits. The ranges they get are not
// empty and lie within SizeBytes; they need not be aligned to anything.
//
// An error given to Complete is the answer to that request alone. A syscall.Errno in its chain decides the error number
// that the client sees (EPERM, EIO, ENOMEM, EINVAL, ENOSPC, ENOTSUP, ESHUTDOWN and their relatives), else it is EIO.
//
// Several connections may use one Device at the same time, and clients are told so (CAN_MULTI_CONN). The Device
// therefore guarantees that a Flush covers every write that was completed on any connection before the Flush began, and
// that what was written on one is read on all.
type Device interface {
	// SizeBytes is the size at this moment. It may grow while clients are connected.
	SizeBytes() uint64
	// Read fills p before it completes without an error.
	Read(p []byte, offset uint64, b Batch, c Completion)
	// Write stores p, which stays valid and unchanged until completion. With fua it is on stable media by then.
	Write(p []byte, offset uint64, fua bool, b Batch, c Completion)
	// Flush puts every write that has been completed, on any connection, on stable media.
	Flush(b Batch, c Completion)
	// Trim says that the range is no longer needed.
	Trim(offset, length uint64, fua bool, b Batch, c Completion)
	// Zero makes the range read as zeroes. With noHole it stays allocated; with fast it fails with ENOTSUP, having
	// changed nothing, when it would be no faster than writing zeroes.
	Zero(offset, length uint64, fua, noHole, fast bool, b Batch, c Completion)
	// Cache says that the range will be read soon.
	Cache(offset, length uint64, b Batch, c Completion)
	// Extents describes the range from its start on, piece by piece, until it ends or emit returns an error, which
	// Extents returns. It may block until ctx ends and is called on a goroutine of its own.
	Extents(ctx context.Context, offset, length uint64, emit func(length uint64, hole, zero bool) error) error
}

// Export is a device under the name by which clients ask for it.
type Export struct {
	// Name is the full name, also when the client asked for the default export.
	Name string
	// Description is for people; it may be empty.
	Description string
	Device      Device
	ReadOnly    bool
	// Revoked, when closed, ends the connections that use the export at once. From then on no reply leaves, not even to
	// requests that complete later. It may be nil.
	Revoked <-chan struct{}
}

// Exports is the directory of what can be served.
type Exports interface {
	// Names lists what a client may ask for.
	Names() []string
	// Open finds an export; the empty name means the default one. A *Refused error tells the client why not.
	Open(name string) (*Export, error)
}

// RefusedKind says why an export can't be had.
type RefusedKind int

// The kinds of refusal.
const (
	// RefusedUnknown: there is no export of that name.
	RefusedUnknown RefusedKind = iota
	// RefusedPolicy: there is one, but not here or not now, for example because this node is Secondary.
	RefusedPolicy
	// RefusedShutdown: it is being taken down.
	RefusedShutdown
)

// Refused is why an export can't be had. The message is sent to the client, for its user to read.
type Refused struct {
	Kind    RefusedKind
	Message string
}

// Error returns the message.
func (r *Refused) Error() string {
	if r.Message == "" {
		return fmt.Sprintf("export refused (kind %d)", int(r.Kind))
	}
	return r.Message
}
