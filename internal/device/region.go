package device

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Region is a bounded piece of storage for metadata: offset 0 is its own
// beginning, and nothing outside it can be reached through it.
type Region struct {
	device      *Device
	offsetBytes int64
	sizeBytes   atomic.Int64
	owned       bool // closing the region closes the device
}

func newRegion(d *Device, offsetBytes, sizeBytes int64, owned bool) *Region {
	r := &Region{device: d, offsetBytes: offsetBytes, owned: owned}
	r.sizeBytes.Store(sizeBytes)
	return r
}

// CreateRegionFile makes a metadata file of sizeBytes zero bytes, exclusively
// opened; file and directory are durable on return. Its space is reserved where
// the filesystem can, so that metadata updates don't fail on a full disk later.
// It fails with fs.ErrExist, and changes nothing, when the path exists.
func CreateRegionFile(path string, sizeBytes int64) (*Region, error) {
	return createRegionOn(osFiles{}, path, sizeBytes)
}

func createRegionOn(on files, path string, sizeBytes int64) (*Region, error) {
	if sizeBytes <= 0 {
		return nil, fmt.Errorf("metadata %s: size %d is not positive", path, sizeBytes)
	}
	d, err := createFile(on, path, sizeBytes, true)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return newRegion(d, 0, sizeBytes, true), nil
}

// OpenRegionFile opens an existing metadata file, exclusively.
func OpenRegionFile(path string) (*Region, error) {
	d, err := Open(path)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return newRegion(d, 0, d.SizeBytes(), true), nil
}

// OpenRegionFileReadOnly opens an existing metadata file to look at it, as
// OpenReadOnly does.
func OpenRegionFileReadOnly(path string) (*Region, error) {
	d, err := OpenReadOnly(path)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return newRegion(d, 0, d.SizeBytes(), true), nil
}

// Section sets [off, off+n) of the disk apart as metadata. From then on the
// disk ends at off for everything else: SizeBytes says so, and no data request
// can touch the section. A disk has at most one.
func (d *Device) Section(off, n int64) (*Region, error) {
	sizeBytes, err := d.askSize()
	if err != nil {
		return nil, fmt.Errorf("disk %s: cannot ask its size: %w", d.path, err)
	}
	if err := d.check("section", off, n, sizeBytes); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("disk %s: section at %d is empty", d.path, off)
	}
	if !d.dataEndBytes.CompareAndSwap(noSection, off) {
		return nil, fmt.Errorf("disk %s: has a metadata section already, at %d", d.path, d.dataEndBytes.Load())
	}
	d.boundBytes.Store(off)
	return newRegion(d, off, n, false), nil
}

// Size returns the size of the region in bytes.
func (r *Region) Size() int64 { return r.sizeBytes.Load() }

// CanGrow tells that the region is a file of its own, which Grow can make longer.
func (r *Region) CanGrow() bool { return r.owned && r.device.CanGrow() }

// Grow makes a metadata file longer, durably, and reserves the space as CreateRegionFile does; what is new is zeroes.
func (r *Region) Grow(sizeBytes int64) error {
	if !r.CanGrow() {
		return fmt.Errorf("metadata %s: they are no file of their own, and can't grow", r.device.path)
	}
	if have := r.Size(); have < sizeBytes {
		err := retry(func() error { return unix.Fallocate(int(r.device.file.Fd()), 0, have, sizeBytes-have) })
		if err != nil && !notSupported(err) {
			return fmt.Errorf("metadata %s: cannot reserve %d bytes more: %w", r.device.path, sizeBytes-have, err)
		}
		if err := r.device.Grow(sizeBytes); err != nil {
			return err
		}
		r.sizeBytes.Store(sizeBytes)
	}
	return nil
}

// Path returns the path of the file or disk the region is in.
func (r *Region) Path() string { return r.device.path }

// ReadAt fills p from off or returns an error.
func (r *Region) ReadAt(p []byte, off int64) (int, error) {
	if err := r.device.check("metadata read", off, int64(len(p)), r.sizeBytes.Load()); err != nil {
		return 0, err
	}
	return r.device.readAt(p, r.offsetBytes+off)
}

// WriteAt writes p at off; it is stable only after Sync.
func (r *Region) WriteAt(p []byte, off int64) (int, error) {
	if err := r.device.check("metadata write", off, int64(len(p)), r.sizeBytes.Load()); err != nil {
		return 0, err
	}
	return r.device.writeAt(p, r.offsetBytes+off)
}

// WriteDurableAt writes p at off; it is stable on return.
func (r *Region) WriteDurableAt(p []byte, off int64) (int, error) {
	if err := r.device.check("durable metadata write", off, int64(len(p)), r.sizeBytes.Load()); err != nil {
		return 0, err
	}
	return r.device.writeDurableAt(p, r.offsetBytes+off)
}

// Sync makes everything written before it stable. For a section that is a flush
// of the whole disk.
func (r *Region) Sync() error { return r.device.Sync() }

// Close closes a metadata file. A section stays reserved, and its disk open,
// until the disk is closed.
func (r *Region) Close() error {
	if !r.owned {
		return nil
	}
	return r.device.Close()
}
