// Package device opens the disk of a replica, a file or a block device, and
// gives exact access to it: reads and writes at offsets, writes that are
// stable on return, flush, zeroing with and without freeing space, and the
// map of holes.
//
// # Exclusiveness
//
// A disk belongs to one process at a time. Files are guarded by an exclusive
// flock, block devices by O_EXCL (the kernel's own claim, which mounts, LVM and
// md also take) and by flock on the device node. A second opener gets ErrInUse
// with the path and what to do. The guard ends with the file descriptor, so a
// killed process leaves nothing behind.
//
// # What is promised
//
//   - Every method checks its range against the size before it has any effect.
//     The bound is the size that Open or the latest SizeBytes call saw.
//   - After Punch and Zero the exact byte range reads as zeroes, whatever the
//     alignment and whatever the filesystem or device can do. BLKDISCARD is
//     never used: it promises nothing about what is read afterwards.
//   - Interrupted and short system calls are continued; a result is either
//     complete or an error.
//   - A failed Sync is reported once and never repeated in here, because the
//     kernel reports a lost write-back only once.
//
// # Metadata
//
// A Region is the bounded piece of storage that the superblock, the activity
// log and the bitmaps live in: a file of its own (CreateRegionFile,
// OpenRegionFile), or the end of the disk (Device.Section).
package device
