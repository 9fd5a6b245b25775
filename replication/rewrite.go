package replication

import (
	"fmt"

	"duet/bitmap"
)

// rewriteBytes is how much is read and written at once.
const rewriteBytes = 1 << 20

// rewriteHot writes again, and makes durable, what can be read of every hot extent of a disk that has failed and is to be
// used all the same, since nobody else has the data. After a flush that failed the kernel may count blocks as clean that
// never reached the medium: they can be read, and copied to a peer, until the power fails, and no later flush covers them.
// Each of them lies in a hot extent, since an extent cools only when a flush has succeeded. The log stays as it is, so an
// attempt that is interrupted is made again.
func rewriteHot(disk Disk, region bitmap.View, cfg bitmap.Config) error {
	extents, known, err := bitmap.HotExtents(region, cfg)
	if err != nil {
		return err
	}
	if !known {
		extents = extents[:0]
		for extent := uint64(0); extent*bitmap.ExtentBytes < cfg.DeviceBytes; extent++ {
			extents = append(extents, uint32(extent))
		}
	}
	buffer := make([]byte, rewriteBytes)
	for _, extent := range extents {
		off := uint64(extent) * bitmap.ExtentBytes
		n := min(bitmap.ExtentBytes, cfg.DeviceBytes-off)
		err := disk.Extents(int64(off), int64(n), func(n int64, hole bool) error {
			defer func() { off += uint64(n) }()
			if hole {
				return disk.Punch(int64(off), n)
			}
			return rewriteRange(disk, int64(off), n, buffer)
		})
		if err != nil {
			return fmt.Errorf("rewrite the extent at %d: %w", uint64(extent)*bitmap.ExtentBytes, err)
		}
	}
	return disk.Sync()
}

// rewriteRange leaves out blocks that can't be read: nobody will get anything of them but an error.
func rewriteRange(disk Disk, off, n int64, buffer []byte) error {
	for end := off + n; off < end; {
		p := buffer[:min(int64(len(buffer)), end-off)]
		switch _, err := disk.ReadAt(p, off); {
		case err == nil:
			if _, err := disk.WriteAt(p, off); err != nil {
				return err
			}
		case len(p) > bitmap.BlockBytes:
			if err := rewriteRange(disk, off, int64(len(p)), buffer[:bitmap.BlockBytes]); err != nil {
				return err
			}
		}
		off += int64(len(p))
	}
	return nil
}
