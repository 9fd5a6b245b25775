package device

import "golang.org/x/sys/unix"

// StartWriteback has the kernel begin to write what the page cache has of the range, without waiting for it. It promises
// nothing: a failure shows at the next Sync.
func (d *Device) StartWriteback(off, n int64) {
	err := d.raw.Control(func(fd uintptr) {
		if unix.SyncFileRange(int(fd), off, n, unix.SYNC_FILE_RANGE_WRITE) != nil {
			return // a hint that can't be given; the kernel reports a failed write-back to Sync
		}
	})
	if err != nil {
		return // the disk is closed
	}
}
