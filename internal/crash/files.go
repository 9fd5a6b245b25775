package crash

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Files does operations on the files below a real directory, and records them.
type Files struct {
	*Recorder
	root string

	filesMu sync.Mutex
	open    map[*os.File]int
}

// RecordFiles begins a run on the files below root, all of which count as durable.
func RecordFiles(root string) (*Files, error) {
	image, err := ReadDirectory(root)
	if err != nil {
		return nil, err
	}
	return &Files{Recorder: NewRecorder(image), root: root, open: map[*os.File]int{}}, nil
}

// ResumeFiles is Recorder.Resume for files: root, an empty directory, becomes what the killed process left.
func (f *Files) ResumeFiles(root string, n int) (*Files, error) {
	again := &Files{Recorder: f.Resume(n), root: root, open: map[*os.File]int{}}
	return again, again.live.WriteTo(root)
}

var errOutside = errors.New("is not below the recorded directory")

// names splits a path below the root.
func (f *Files) names(path string) ([]string, error) {
	relative, err := filepath.Rel(f.root, path)
	if err != nil {
		return nil, err
	}
	switch {
	case relative == ".":
		return nil, nil
	case strings.HasPrefix(relative, ".."):
		return nil, fmt.Errorf("%s: %w, %s", path, errOutside, f.root)
	}
	return strings.Split(relative, string(filepath.Separator)), nil
}

// Number returns the number of the file or directory at path.
func (f *Files) Number(path string) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.numberLocked(path)
}

func (f *Files) numberLocked(path string) (int, error) {
	names, err := f.names(path)
	if err != nil {
		return 0, err
	}
	return f.live.lookup(names)
}

// entryLocked records an operation on the directory of path.
func (f *Files) entryLocked(path string, op Op) error {
	directory, err := f.numberLocked(filepath.Dir(path))
	if err != nil {
		return err
	}
	op.Object, op.Path, op.Name = directory, filepath.Dir(path), filepath.Base(path)
	f.recordLocked(op)
	return nil
}

// Mkdir makes a directory.
func (f *Files) Mkdir(path string, mode fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := os.Mkdir(path, mode); err != nil {
		return err
	}
	child := f.addLocked(&object{mode: mode, entries: map[string]int{}})
	return f.entryLocked(path, Op{Kind: Link, Child: child})
}

// CreateTemp makes a file of a new name, as os.CreateTemp does.
func (f *Files) CreateTemp(directory, pattern string) (*os.File, error) {
	file, err := os.CreateTemp(directory, pattern)
	if err != nil {
		return nil, err
	}
	return file, f.created(file, 0o600)
}

func (f *Files) created(file *os.File, mode fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	child := f.addLocked(&object{mode: mode, content: NewContent(0)})
	f.filesMu.Lock()
	f.open[file] = child
	f.filesMu.Unlock()
	return f.entryLocked(file.Name(), Op{Kind: Link, Child: child})
}

// onFile records an operation on an open file.
func (f *Files) onFile(file *os.File, op Op) error {
	f.filesMu.Lock()
	number, ok := f.open[file]
	f.filesMu.Unlock()
	if !ok {
		return fmt.Errorf("%s was not opened here", file.Name())
	}
	op.Object, op.Path = number, file.Name()
	f.record(op)
	return nil
}

// Write appends to a file that CreateTemp made.
func (f *Files) Write(file *os.File, p []byte) (int, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	n, err := file.Write(p)
	return n, errors.Join(err, f.onFile(file, Op{Kind: Write, Offset: info.Size(), Data: bytes.Clone(p[:n])}))
}

// Truncate changes the size of a file.
func (f *Files) Truncate(file *os.File, size int64) error {
	if err := file.Truncate(size); err != nil {
		return err
	}
	return f.onFile(file, Op{Kind: Resize, Offset: size})
}

// Chmod changes the mode of a file.
func (f *Files) Chmod(file *os.File, mode fs.FileMode) error {
	if err := file.Chmod(mode); err != nil {
		return err
	}
	return f.onFile(file, Op{Kind: Mode, Mode: mode})
}

// Sync makes a file durable. The file on the real disk is not synced: only the record counts.
func (f *Files) Sync(file *os.File) error { return f.onFile(file, Op{Kind: Sync}) }

// SyncDirectory makes the entries of a directory durable. What is outside the root counts as durable anyway.
func (f *Files) SyncDirectory(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	number, err := f.numberLocked(path)
	if errors.Is(err, errOutside) {
		return nil
	}
	if err != nil {
		return err
	}
	f.recordLocked(Op{Kind: Sync, Object: number, Path: path})
	return nil
}

// Rename gives a file or directory another name in the same directory.
func (f *Files) Rename(from, to string) error {
	if filepath.Dir(from) != filepath.Dir(to) {
		return fmt.Errorf("rename %s to %s: renames between directories are not modelled", from, to)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	child, err := f.numberLocked(from)
	if err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return f.entryLocked(from, Op{Kind: Rename, To: filepath.Base(to), Child: child})
}

// Remove removes a file or an empty directory.
func (f *Files) Remove(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := os.Remove(path); err != nil {
		return err
	}
	return f.entryLocked(path, Op{Kind: Unlink})
}

// What follows records what a library did to the files by itself; the caller says what it was.

// SawFile records a new, empty file.
func (f *Files) SawFile(path string, mode fs.FileMode) error {
	return f.saw(path, &object{mode: mode, content: NewContent(0)})
}

// SawDirectory records a new, empty directory.
func (f *Files) SawDirectory(path string, mode fs.FileMode) error {
	return f.saw(path, &object{mode: mode, entries: map[string]int{}})
}

func (f *Files) saw(path string, o *object) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.entryLocked(path, Op{Kind: Link, Child: f.addLocked(o)})
}

// SawRename records a rename in one directory.
func (f *Files) SawRename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	child, err := f.numberLocked(from)
	if err != nil {
		return err
	}
	return f.entryLocked(from, Op{Kind: Rename, To: filepath.Base(to), Child: child})
}

// SawRemove records that a name is gone.
func (f *Files) SawRemove(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.entryLocked(path, Op{Kind: Unlink})
}

// Saw records an operation on the file or directory at path.
func (f *Files) Saw(path string, op Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	number, err := f.numberLocked(path)
	if err != nil {
		return err
	}
	op.Object, op.Path = number, path
	f.recordLocked(op)
	return nil
}

// Recorded returns the content of the file at path as it was recorded so far.
func (f *Files) Recorded(path string) (*Content, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	number, err := f.numberLocked(path)
	if err != nil {
		return nil, err
	}
	return f.live.Content(number).Clone(), nil
}

// RecordedNames returns the names in the directory at path as they were recorded so far.
func (f *Files) RecordedNames(path string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	number, err := f.numberLocked(path)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(f.live.objects[number].entries)), nil
}
