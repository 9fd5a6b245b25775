package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"duet/replication"
)

// undoFile is an undo file on this node; it satisfies replication.UndoFile.
type undoFile struct{ *os.File }

// Size implements replication.UndoFile.
func (f undoFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// FreeBytes implements replication.UndoFile.
func (f undoFile) FreeBytes() (uint64, error) { return freeBytes(f.Name()) }

func freeBytes(path string) (uint64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return 0, fmt.Errorf("free space at %s: %w", path, err)
	}
	return stat.Bavail * uint64(stat.Bsize), nil
}

// undoPath is where the undo file of a decision is unless the operator names another place.
func (n *Node) undoPath(path, resource, id string, discardAt uint64) string {
	if path != "" {
		return path
	}
	return filepath.Join(n.dir.Undo(), fmt.Sprintf("%s-%.8s-g%d.undo", resource, id, discardAt))
}

// openUndo is replication's OpenUndo.
func (n *Node) openUndo(path string, identity *replication.UndoIdentity, create bool) (_ replication.UndoFile, fresh bool, err error) {
	path = n.undoPath(path, identity.Resource, fmt.Sprintf("%x", identity.ResourceID), identity.DiscardAt)
	f, fresh, err := openOrCreate(path, create)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return nil, false, fmt.Errorf("the undo file %s is gone, and blocks were overwritten already: put it back, or name another one for what is left: "+
			"duet split resolve, with --undo-file", path)
	}
	if err != nil {
		return nil, false, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, false, errors.Join(fmt.Errorf("the undo file %s is in use: %w", path, err), f.Close())
	}
	if fresh {
		err = syncDirectory(filepath.Dir(path))
	}
	if err != nil {
		return nil, false, errors.Join(err, f.Close())
	}
	return undoFile{f}, fresh, nil
}

// openOrCreate opens a file of this user alone; one that is made here is made by nobody else.
func openOrCreate(path string, create bool) (f *os.File, fresh bool, err error) {
	f, err = os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if !errors.Is(err, fs.ErrNotExist) || !create {
		return f, false, err
	}
	directory := filepath.Dir(path)
	if err := errors.Join(os.MkdirAll(directory, 0o700), syncDirectory(filepath.Dir(directory))); err != nil {
		return nil, false, err
	}
	f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return f, true, err
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
