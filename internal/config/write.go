package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces path by content, durably and at once: a crash leaves the
// old file or the new one. On an error the old file is as it was, unless the
// error was the last step's, the sync of the directory.
func WriteFile(path string, content []byte, mode fs.FileMode) error {
	return writeFile(osFiles{}, path, content, mode)
}

func writeFile(on files, path string, content []byte, mode fs.FileMode) error {
	directory := filepath.Dir(path)
	file, err := on.CreateTemp(directory, "."+filepath.Base(path)+".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	err = fill(on, file, content, mode)
	if err == nil {
		err = on.Rename(file.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, on.Remove(file.Name())))
	}
	if err := on.SyncDirectory(directory); err != nil {
		return fmt.Errorf("write %s: sync of its directory: %w", path, err)
	}
	return nil
}

// fill makes the temporary file complete and durable, and closes it.
func fill(on files, file *os.File, content []byte, mode fs.FileMode) error {
	_, err := on.Write(file, content)
	if err == nil {
		err = on.Chmod(file, mode)
	}
	if err == nil {
		err = on.Sync(file)
	}
	return errors.Join(err, file.Close())
}

// readBounded reads a whole file, and refuses one larger than maxBytes before
// it takes memory for it.
func readBounded(path string, maxBytes int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() > maxBytes {
		return nil, fmt.Errorf("%s has %d bytes; at most %d make sense", path, info.Size(), maxBytes)
	}
	return os.ReadFile(path)
}
