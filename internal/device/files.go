package device

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// files is how files are made and removed. Tests record it, and look at what a
// crash leaves of it.
type files interface {
	CreateTemp(directory, pattern string) (*os.File, error)
	Truncate(file *os.File, sizeBytes int64) error
	Sync(file *os.File) error
	// RenameNew fails with fs.ErrExist when the new name is taken.
	RenameNew(from, to string) error
	Remove(path string) error
	SyncDirectory(path string) error
}

// osFiles is the real file system.
type osFiles struct{}

func (osFiles) CreateTemp(directory, pattern string) (*os.File, error) {
	return os.CreateTemp(directory, pattern)
}
func (osFiles) Truncate(file *os.File, sizeBytes int64) error { return file.Truncate(sizeBytes) }
func (osFiles) Sync(file *os.File) error                      { return file.Sync() }
func (osFiles) RenameNew(from, to string) error               { return nameNewFile(from, to) }
func (osFiles) Remove(path string) error                      { return os.Remove(path) }

func (osFiles) SyncDirectory(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return plain(err)
	}
	return errors.Join(file.Sync(), file.Close())
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
