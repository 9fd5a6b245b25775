package device

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// extentStepBytes is how far Extents goes on as data when the file changes
// under it and the kernel's two answers don't fit together.
const extentStepBytes = 4096

// Extents calls emit for consecutive runs that cover [off, off+n) exactly, in
// order. A hole reads as zeroes; what isn't a hole may still be all zeroes.
// Where the disk can't tell (block devices, some filesystems) all is data.
// An error from emit ends the walk and is returned as it is.
//
// Concurrent calls don't disturb each other: every lseek here is absolute, and
// nothing in this package uses the file offset that it leaves behind.
func (d *Device) Extents(off, n int64, emit func(n int64, hole bool) error) error {
	if err := d.check("extents", off, n, d.boundBytes.Load()); err != nil {
		return err
	}
	for end := off + n; off < end; {
		run, hole, err := d.extentAt(off, end)
		if err != nil {
			return fmt.Errorf("disk %s: extents at %d: %w", d.path, off, err)
		}
		if err := emit(run, hole); err != nil {
			return err
		}
		off += run
	}
	return nil
}

// extentAt returns the run that begins at off, cut at end. The run is never
// empty.
func (d *Device) extentAt(off, end int64) (run int64, hole bool, err error) {
	if d.block {
		return end - off, false, nil
	}
	data, err := d.file.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // no data up to the end of the file
		return end - off, true, nil
	case notSupported(err):
		return end - off, false, nil
	case err != nil:
		return 0, false, plain(err)
	case data > off:
		return min(data, end) - off, true, nil
	}
	next, err := d.file.Seek(off, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) {
		next, err = off, nil // cut off there meanwhile
	}
	if err != nil {
		return 0, false, plain(err)
	}
	return dataRun(off, next, end), false, nil
}

// dataRun is the length of a run of data at off, when the next hole is at next.
// If that is off itself, the data found a moment ago was punched meanwhile: then
// calling a little of it data is always right, only not thrifty, and gets on.
func dataRun(off, next, end int64) int64 {
	if next <= off {
		next = off + extentStepBytes
	}
	return min(next, end) - off
}
