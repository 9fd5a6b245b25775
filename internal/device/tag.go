package device

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// tagAttribute holds the tag of a file as decimal text, so that getfattr shows
// it readably.
const tagAttribute = "user.duet.attach"

// maxTagBytes is the length of the largest tag as text.
const maxTagBytes = len("18446744073709551615")

// Tag returns the counter that SetTag left with the disk. A file that never had
// one, or whose attributes were lost by a copy or a restore, has tag 0. ErrNoTag
// says that this disk can't keep one.
func (d *Device) Tag() (uint64, error) {
	if d.block {
		return 0, fmt.Errorf("disk %s: %w: it is a block device", d.path, ErrNoTag)
	}
	value := make([]byte, maxTagBytes+1)
	length := 0
	err := d.control(func(fd int) (err error) {
		length, err = unix.Fgetxattr(fd, tagAttribute, value)
		return err
	})
	switch {
	case errors.Is(err, unix.ENODATA):
		return 0, nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return 0, fmt.Errorf("disk %s: %w: its filesystem has no extended attributes", d.path, ErrNoTag)
	case errors.Is(err, unix.ERANGE):
		return 0, fmt.Errorf("disk %s: attribute %s is not a number", d.path, tagAttribute)
	case err != nil:
		return 0, fmt.Errorf("disk %s: attribute %s: %w", d.path, tagAttribute, err)
	}
	tag, err := strconv.ParseUint(string(value[:length]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("disk %s: attribute %s is %q, not a number", d.path, tagAttribute, value[:length])
	}
	return tag, nil
}

// SetTag keeps a counter with the disk; it is durable on return.
func (d *Device) SetTag(tag uint64) error {
	if d.block {
		return fmt.Errorf("disk %s: %w: it is a block device", d.path, ErrNoTag)
	}
	value := strconv.AppendUint(nil, tag, 10)
	err := d.control(func(fd int) error { return unix.Fsetxattr(fd, tagAttribute, value, 0) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("disk %s: %w: its filesystem has no extended attributes", d.path, ErrNoTag)
	}
	if err != nil {
		return fmt.Errorf("disk %s: attribute %s: %w", d.path, tagAttribute, err)
	}
	// A full fsync: fdatasync need not write attributes.
	if err := d.control(unix.Fsync); err != nil {
		return fmt.Errorf("disk %s: attribute %s: sync: %w", d.path, tagAttribute, err)
	}
	return nil
}
