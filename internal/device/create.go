package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Create opens the disk at path and makes it first when nothing is there: a
// sparse file of sizeBytes. created tells that the file is new, and so all one
// hole. What exists keeps its content and must have at least sizeBytes.
// A new file appears under its name complete and durable, or not at all.
func Create(path string, sizeBytes int64) (created bool, d *Device, err error) {
	if sizeBytes <= 0 {
		return false, nil, fmt.Errorf("disk %s: size %d is not positive", path, sizeBytes)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		d, err := createFile(path, sizeBytes, false)
		if !errors.Is(err, fs.ErrExist) {
			return err == nil, d, err
		}
		// Somebody else made it a moment ago: it counts as existing.
	}
	d, err = Open(path)
	if err != nil {
		return false, nil, err
	}
	if have := d.SizeBytes(); have < sizeBytes {
		err := fmt.Errorf("disk %s: %w: it has %d bytes, %d are needed", path, ErrTooSmall, have, sizeBytes)
		return false, nil, errors.Join(err, d.Close())
	}
	return false, d, nil
}

// createFile makes a new file under a temporary name, locks it, gives it its
// size, makes it durable and only then gives it its name. It fails with
// fs.ErrExist when the name is taken. With allocate the space is reserved.
func createFile(path string, sizeBytes int64, allocate bool) (*Device, error) {
	directory := filepath.Dir(path)
	file, err := os.CreateTemp(directory, "."+filepath.Base(path)+".new-*")
	if err != nil {
		return nil, fmt.Errorf("disk %s: cannot create a file in %s: %w", path, directory, plain(err))
	}
	d, err := fillNewFile(path, file, sizeBytes, allocate)
	if err != nil {
		return nil, errors.Join(err, os.Remove(file.Name()), file.Close())
	}
	if err := syncDirectory(directory); err != nil {
		return nil, errors.Join(fmt.Errorf("disk %s: sync of %s: %w", path, directory, err), d.Close())
	}
	return d, nil
}

// fillNewFile does all of createFile that must be undone when it fails.
func fillNewFile(path string, file *os.File, sizeBytes int64, allocate bool) (*Device, error) {
	if err := lock(file.Name(), file, unix.LOCK_EX); err != nil {
		return nil, err
	}
	if err := file.Truncate(sizeBytes); err != nil {
		return nil, fmt.Errorf("disk %s: cannot give it %d bytes: %w", path, sizeBytes, plain(err))
	}
	if allocate {
		err := retry(func() error { return unix.Fallocate(int(file.Fd()), 0, 0, sizeBytes) })
		if err != nil && !notSupported(err) {
			return nil, fmt.Errorf("disk %s: cannot reserve %d bytes: %w", path, sizeBytes, err)
		}
	}
	if err := file.Sync(); err != nil {
		return nil, fmt.Errorf("disk %s: sync: %w", path, plain(err))
	}
	d, err := newDevice(path, file, false)
	if err != nil {
		return nil, err
	}
	return d, nameNewFile(file.Name(), path)
}

// nameNewFile renames without ever replacing something.
func nameNewFile(from, to string) error {
	err := retry(func() error {
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	})
	if notSupported(err) {
		// Filesystems without that flag have links, which don't replace either.
		if err = os.Link(from, to); err == nil {
			err = os.Remove(from)
		}
	}
	if err != nil {
		return fmt.Errorf("disk %s: %w", to, plain(err))
	}
	return nil
}

// syncDirectory makes a new name durable.
func syncDirectory(directory string) error {
	file, err := os.Open(directory)
	if err != nil {
		return plain(err)
	}
	return errors.Join(file.Sync(), file.Close())
}
