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
// A new file appears under its name complete and durable, or not at all; the
// name of a file that exists is durable on return too.
func Create(path string, sizeBytes int64) (created bool, d *Device, err error) {
	return createOn(osFiles{}, path, sizeBytes)
}

func createOn(on files, path string, sizeBytes int64) (created bool, d *Device, err error) {
	if sizeBytes <= 0 {
		return false, nil, fmt.Errorf("disk %s: size %d is not positive", path, sizeBytes)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		d, err := createFile(on, path, sizeBytes, false)
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
	if d.block {
		return false, d, nil
	}
	// Whoever made it may have been killed before it synced.
	if err := on.SyncDirectory(filepath.Dir(path)); err != nil {
		return false, nil, errors.Join(fmt.Errorf("disk %s: sync of its directory: %w", path, err), d.Close())
	}
	return false, d, nil
}

// Remove removes a file that Create or CreateRegionFile made, durably.
func Remove(path string) error { return removeOn(osFiles{}, path) }

func removeOn(on files, path string) error {
	if err := on.Remove(path); err != nil {
		return err
	}
	return on.SyncDirectory(filepath.Dir(path))
}

// createFile makes a new file under a temporary name, locks it, gives it its
// size, makes it durable and only then gives it its name. It fails with
// fs.ErrExist when the name is taken. With allocate the space is reserved.
func createFile(on files, path string, sizeBytes int64, allocate bool) (*Device, error) {
	directory := filepath.Dir(path)
	file, err := on.CreateTemp(directory, "."+filepath.Base(path)+".new-*")
	if err != nil {
		return nil, fmt.Errorf("disk %s: cannot create a file in %s: %w", path, directory, plain(err))
	}
	d, err := fillNewFile(on, path, file, fileSpec{sizeBytes, allocate})
	if err != nil {
		return nil, errors.Join(err, on.Remove(file.Name()), file.Close())
	}
	if err := on.SyncDirectory(directory); err != nil {
		return nil, errors.Join(fmt.Errorf("disk %s: sync of %s: %w", path, directory, err), on.Remove(path), d.Close())
	}
	return d, nil
}

// fileSpec says what a new file is to be like.
type fileSpec struct {
	sizeBytes int64
	allocate  bool // reserve the space
}

// fillNewFile does all of createFile that must be undone when it fails.
func fillNewFile(on files, path string, file *os.File, wanted fileSpec) (*Device, error) {
	if err := lock(file.Name(), file, unix.LOCK_EX); err != nil {
		return nil, err
	}
	if err := on.Truncate(file, wanted.sizeBytes); err != nil {
		return nil, fmt.Errorf("disk %s: cannot give it %d bytes: %w", path, wanted.sizeBytes, plain(err))
	}
	if wanted.allocate {
		err := retry(func() error { return unix.Fallocate(int(file.Fd()), 0, 0, wanted.sizeBytes) })
		if err != nil && !notSupported(err) {
			return nil, fmt.Errorf("disk %s: cannot reserve %d bytes: %w", path, wanted.sizeBytes, err)
		}
	}
	if err := on.Sync(file); err != nil {
		return nil, fmt.Errorf("disk %s: sync: %w", path, plain(err))
	}
	d, err := newDevice(path, file, false)
	if err != nil {
		return nil, err
	}
	return d, on.RenameNew(file.Name(), path)
}
