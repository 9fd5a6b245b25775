package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// files is what this package does to the file system. Tests record it, and look at what a crash leaves of it.
type files interface {
	Mkdir(path string, mode fs.FileMode) error
	CreateTemp(directory, pattern string) (*os.File, error)
	Write(file *os.File, p []byte) (int, error)
	Chmod(file *os.File, mode fs.FileMode) error
	Sync(file *os.File) error
	Rename(from, to string) error
	Remove(path string) error
	SyncDirectory(path string) error
}

// osFiles is the real file system.
type osFiles struct{}

func (osFiles) Mkdir(path string, mode fs.FileMode) error        { return os.Mkdir(path, mode) }
func (osFiles) CreateTemp(dir, pattern string) (*os.File, error) { return os.CreateTemp(dir, pattern) }
func (osFiles) Write(file *os.File, p []byte) (int, error)       { return file.Write(p) }
func (osFiles) Chmod(file *os.File, mode fs.FileMode) error      { return file.Chmod(mode) }
func (osFiles) Sync(file *os.File) error                         { return file.Sync() }
func (osFiles) Rename(from, to string) error                     { return os.Rename(from, to) }
func (osFiles) Remove(path string) error                         { return os.Remove(path) }
func (osFiles) SyncDirectory(path string) error                  { return SyncDirectory(path) }

// SyncDirectory makes the names in a directory durable: what was made, renamed or removed there.
func SyncDirectory(directory string) error {
	file, err := os.Open(directory)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// makeDirectory makes a directory and those above it that are missing, durably. Each is durable before something is made
// in it. So of those that exist only the deepest may not be, if the process that made it was killed: it is made durable
// here too.
func makeDirectory(on files, path string) error {
	parent := filepath.Dir(path)
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%s is not a directory", path)
	case err == nil:
		if err := on.SyncDirectory(parent); err != nil && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("sync %s: %w", parent, err)
		}
		return nil // who may not look into the directory above did not make this one
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := makeDirectory(on, parent); err != nil {
		return err
	}
	if err := on.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := on.SyncDirectory(parent); err != nil {
		return fmt.Errorf("sync %s: %w", parent, err)
	}
	return nil
}
