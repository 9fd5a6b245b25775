package bitmap

import "errors"

var (
	// ErrGeometry is returned by Open when the region was formatted for another device size or another number of
	// activity log extents than the Config says.
	ErrGeometry = errors.New("bitmap region was formatted for another geometry")
	// ErrVersion is returned by Open when the region was written by a version of this package with another format.
	ErrVersion = errors.New("bitmap region has another format version")
	// ErrNotFormatted is returned by Open when the region holds neither a sound directory block nor a sound log block: it is
	// most probably not a bitmap region at all. Nothing was changed.
	ErrNotFormatted = errors.New("no bitmap region found")
	// ErrRegionTooSmall is returned by Format and Open when the region cannot hold what the Config asks for.
	ErrRegionTooSmall = errors.New("bitmap region is too small")
	// ErrTooManyExtents is given to the ready function of an Acquire that the log could never grant at once.
	ErrTooManyExtents = errors.New("request touches more extents than the activity log grants at once")
	// ErrOutOfRange is given to the ready function of an Acquire of extents that the device does not have.
	ErrOutOfRange = errors.New("extent is beyond the end of the device")
	// ErrClosed is what every operation gets that waits when the Store is closed, or comes later.
	ErrClosed = errors.New("bitmap store is closed")
	// ErrBusy is returned by Close when it was asked for a clean end while extents were still held. The log is left as it is,
	// so nothing is lost: the next Open recovers.
	ErrBusy = errors.New("extents are still held, the activity log cannot be closed clean")
	// ErrFailed wraps the first write or sync of the region that failed. A Store never recovers from it.
	ErrFailed = errors.New("bitmap store has failed")
)

// Reasons why a block read from the region does not count. They are never returned to callers of the package: damage
// is handled where it is found, by taking more blocks of the device for dirty.
var (
	errBlank   = errors.New("block was never written")
	errDamaged = errors.New("block is damaged")
)

// foreign reports whether the error says that a block is sound but not of this region.
func foreign(err error) bool { return errors.Is(err, ErrGeometry) || errors.Is(err, ErrVersion) }
