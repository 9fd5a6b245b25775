package device

import "errors"

var (
	// ErrInUse is returned by Open, Create and the region openers when
	// another process (or another opener in this one) holds the disk.
	ErrInUse = errors.New("in use")

	// ErrOutOfRange is returned when a request reaches beyond the disk. The
	// request has had no effect.
	ErrOutOfRange = errors.New("beyond the end of the disk")

	// ErrNoTag is returned by Tag and SetTag when nothing can be kept with
	// the disk: block devices, and filesystems without extended attributes.
	ErrNoTag = errors.New("no tag can be kept with this disk")

	// ErrTooSmall is returned by Create when an existing disk is smaller than
	// what was asked for.
	ErrTooSmall = errors.New("too small")

	// ErrShrunk is returned by ReadAt when the disk ends before the bound
	// that was seen when it was opened.
	ErrShrunk = errors.New("the disk became smaller while in use")
)
