package quorum

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"duet/internal/crash"
)

// libraryFiles records what is done to the directory of the store. What this package does goes through its methods. What
// bbolt and Raft's snapshot store do is seen by comparing the files with what was recorded before, and recorded in the
// order, and with the syncs, that are read in their source:
//
//   - bbolt makes a new file by one write and a sync; a transaction is a change of the size and a sync, if the file grows,
//     its pages, a sync, one of the first two pages (its commit), and a sync (tx.go: Commit, write, writeMeta; db.go: grow);
//   - a snapshot is a directory NAME.tmp, meta.json with a sync, an empty state.bin; then state.bin with a sync, meta.json
//     anew with a sync, the rename to NAME, a sync of the directory above; then older ones are removed (file_snapshot.go).
type libraryFiles struct {
	*crash.Files
	dir      string
	newBytes []byte // what bbolt makes a new file of

	forgetful bool // leaves the sync before an opening out
}

func newLibraryFiles(t *testing.T) *libraryFiles {
	t.Helper()
	dir := t.TempDir()
	recorded, err := crash.RecordFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	scratch := filepath.Join(t.TempDir(), "new")
	db, err := bbolt.Open(scratch, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(scratch)
	if err != nil {
		t.Fatal(err)
	}
	return &libraryFiles{Files: recorded, dir: dir, newBytes: content}
}

// killed is the directory after a process was killed behind its first n operations.
func (l *libraryFiles) killed(t *testing.T, n int) *libraryFiles {
	t.Helper()
	dir := t.TempDir()
	recorded, err := l.ResumeFiles(dir, n)
	if err != nil {
		t.Fatal(err)
	}
	return &libraryFiles{Files: recorded, dir: dir, newBytes: l.newBytes}
}

func (l *libraryFiles) Rename(from, to string) error {
	return errors.Join(l.catchUp(), l.Files.Rename(from, to))
}

// Exchange is what no test that records does.
func (l *libraryFiles) Exchange(string, string) error { return errors.ErrUnsupported }

func (l *libraryFiles) Remove(path string) error {
	if err := l.catchUp(); err != nil {
		return err
	}
	return l.Files.Remove(path)
}

func (l *libraryFiles) SyncFile(file *os.File) error {
	if l.forgetful {
		return l.catchUp()
	}
	return errors.Join(l.catchUp(), l.Saw(file.Name(), crash.Op{Kind: crash.Sync}))
}

func (l *libraryFiles) SyncDirectory(path string) error {
	return errors.Join(l.catchUp(), l.Files.SyncDirectory(path))
}

// catchUp records what the libraries have done since the last time.
func (l *libraryFiles) catchUp() error {
	recorded, err := l.RecordedNames(l.dir)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(l.dir, entry.Name())
		known := slices.Contains(recorded, entry.Name())
		if entry.IsDir() {
			if !known {
				err = l.SawDirectory(path, 0o755)
			}
			err = errors.Join(err, l.catchUpSnapshots(path))
		} else {
			if !known {
				err = l.SawFile(path, 0o600)
			}
			err = errors.Join(err, l.catchUpLog(path))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// catchUpLog records at most the making of a bbolt file and one transaction.
func (l *libraryFiles) catchUpLog(path string) error {
	old, err := l.Recorded(path)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil || len(content) == 0 {
		return err
	}
	before := make([]byte, old.Size())
	if len(before) == 0 {
		before = slices.Clone(l.newBytes)
		err = errors.Join(l.Saw(path, crash.Op{Kind: crash.Write, Data: before}), l.Saw(path, crash.Op{Kind: crash.Sync}))
	} else if _, readErr := old.ReadAt(before, 0); readErr != nil {
		return readErr
	}
	if len(content) != len(before) {
		err = errors.Join(err, l.Saw(path, crash.Op{Kind: crash.Resize, Offset: int64(len(content))}), l.Saw(path, crash.Op{Kind: crash.Sync}))
		before = append(before, make([]byte, len(content)-len(before))...)
	}
	page := os.Getpagesize()
	for _, part := range [][2]int{{2 * page, len(content)}, {0, 2 * page}} {
		changed := false
		for at := part[0]; at < part[1]; at += page {
			if bytes.Equal(before[at:at+page], content[at:at+page]) {
				continue
			}
			changed = true
			err = errors.Join(err, l.Saw(path, crash.Op{Kind: crash.Write, Offset: int64(at), Data: content[at : at+page]}))
		}
		if changed {
			err = errors.Join(err, l.Saw(path, crash.Op{Kind: crash.Sync}))
		}
	}
	return err
}

func (l *libraryFiles) catchUpSnapshots(dir string) error {
	recorded, err := l.RecordedNames(dir)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, entry := range entries {
		name := entry.Name()
		names = append(names, name)
		path := filepath.Join(dir, name)
		switch unfinished := strings.HasSuffix(name, unfinishedSnapshot); {
		case slices.Contains(recorded, name):
		case unfinished:
			err = errors.Join(err, l.SawDirectory(path, 0o755), l.SawFile(path+"/meta.json", 0o644), l.sawContent(path, path, "meta.json"),
				l.SawFile(path+"/state.bin", 0o644))
		default:
			was := path + unfinishedSnapshot
			err = errors.Join(err, l.sawContent(was, path, "state.bin"), l.Saw(was+"/meta.json", crash.Op{Kind: crash.Resize}),
				l.sawContent(was, path, "meta.json"), l.SawRename(was, path), l.Saw(dir, crash.Op{Kind: crash.Sync}))
			names = append(names, name+unfinishedSnapshot)
		}
	}
	for _, name := range recorded {
		if !slices.Contains(names, name) {
			path := filepath.Join(dir, name)
			err = errors.Join(err, l.SawRemove(path+"/meta.json"), l.SawRemove(path+"/state.bin"), l.SawRemove(path))
		}
	}
	return err
}

// sawContent records that a file in the directory was, which is called is by now, was written and synced.
func (l *libraryFiles) sawContent(was, is, name string) error {
	content, err := os.ReadFile(filepath.Join(is, name))
	if err != nil {
		return err
	}
	path := filepath.Join(was, name)
	return errors.Join(l.Saw(path, crash.Op{Kind: crash.Write, Data: content}), l.Saw(path, crash.Op{Kind: crash.Sync}))
}
