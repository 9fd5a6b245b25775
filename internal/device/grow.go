package device

import "fmt"

// CanGrow tells that the disk is a file that Grow can make longer: no block device, and without a metadata section at its end.
func (d *Device) CanGrow() bool { return !d.block && d.dataEndBytes.Load() == noSection }

// Grow makes a file longer, durably; what is new is a hole. A file that has as much stays as it is.
func (d *Device) Grow(sizeBytes int64) error {
	if !d.CanGrow() {
		return fmt.Errorf("disk %s: it is no file, or has its metadata at the end, and can't grow", d.path)
	}
	have, err := d.askSize()
	if err == nil && have < sizeBytes {
		err = plain(d.file.Truncate(sizeBytes))
	}
	if err == nil {
		err = d.Sync() // also what somebody else has made longer before
	}
	if err != nil {
		return fmt.Errorf("disk %s: cannot give it %d bytes: %w", d.path, sizeBytes, err)
	}
	d.SizeBytes() // which moves the bound of requests
	return nil
}
