package replication

import "fmt"

// Disk and metadata belong together when they were attached and detached equally often. The metadata count in two steps,
// with the disk's counter, its tag, between them:
//
//	metadata 2k      tag 2k      at rest, or attached
//	metadata 2k+1    tag 2k      beginning
//	metadata 2k+1    tag 2k+2
//	metadata 2k+2    tag 2k+2    done
//
// Each is durable before the next. Nothing is written to the disk between the first step and the last, so whatever tag is
// found beside an odd count, the disk has what it is to have. Beside an even count only the same tag will do: with a
// single step, a disk restored as it was one attachment ago would look like one that a crash hit between the two.

// CountsFit reports whether a disk with the counter tag belongs to metadata with this attach count, as far as can be told.
func CountsFit(count, tag uint64) bool {
	switch {
	case count <= 1 || tag == count:
		return true // at first the disk may still have the tag of an earlier replica
	case count%2 == 0:
		return false
	}
	return tag == count-1 || tag == count+1
}

// tagDiffers reports whether disk and metadata were attached a different number of times: one of them was restored.
func (r *Resource) tagDiffers(sb *Superblock, disk Disk) bool {
	tag, err := disk.Tag()
	if err != nil || CountsFit(sb.AttachCount, tag) {
		return false
	}
	r.log.Error("disk and metadata do not belong together; the replica needs a full resync", "disk", tag, "metadata", sb.AttachCount)
	return true
}

// beginCount is the first step; the caller writes sb.
func beginCount(sb *Superblock) { sb.AttachCount |= 1 }

// finishCount is the other two; sb is what the first has written. A disk that takes no tag leaves the count as it is.
func (r *Resource) finishCount(sb Superblock, disk Disk, write func(Superblock) error) error {
	if err := disk.SetTag(sb.AttachCount + 1); err != nil {
		r.log.Warn("the disk keeps no attach counter: a disk restored without its metadata is not noticed", "error", err)
		return nil
	}
	sb.AttachCount++
	return write(sb)
}

// countDetached makes a copy of the disk that was taken while it was attached recognisable from then on.
func (r *Resource) countDetached(o *openedReplica) error {
	if _, err := o.local.disk.Tag(); err != nil {
		return nil // the disk keeps no tag, which was said when it was attached
	}
	sb := o.super.superblock()
	beginCount(&sb)
	err := o.super.write(sb)
	if err == nil {
		err = r.finishCount(o.super.superblock(), o.local.disk, o.super.write)
	}
	if err != nil {
		return fmt.Errorf("count the detachment: %w", err)
	}
	return nil
}
