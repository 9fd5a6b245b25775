package forgetful

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func mounted(t *testing.T) *FS {
	t.Helper()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	f, err := Mount(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return file
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func syncDirectory(t *testing.T, path string) {
	t.Helper()
	directory, err := os.Open(path)
	must(t, err)
	must(t, errors.Join(directory.Sync(), directory.Close()))
}

// What programs do for a file to survive, and only that, makes it survive every power cut.
func TestSyncedFilesSurvivePowerCuts(t *testing.T) {
	f := mounted(t)
	inside := filepath.Join(f.Path(), "sub")
	must(t, os.Mkdir(inside, 0o700))
	syncDirectory(t, f.Path())
	file := create(t, filepath.Join(inside, "new"))
	_, err := file.Write([]byte("all"))
	must(t, errors.Join(err, unix.Fsetxattr(int(file.Fd()), "user.tag", []byte("7"), 0), file.Sync(), file.Close()))
	must(t, os.Rename(filepath.Join(inside, "new"), filepath.Join(inside, "name")))
	syncDirectory(t, inside)
	for seed := range uint64(5) {
		_, err := f.PowerCut(seed)
		must(t, err)
		got, err := os.ReadFile(filepath.Join(inside, "name"))
		if err != nil || string(got) != "all" {
			t.Fatalf("seed %d: %q, %v", seed, got, err)
		}
		value := make([]byte, 8)
		n, err := unix.Getxattr(filepath.Join(inside, "name"), "user.tag", value)
		if err != nil || string(value[:n]) != "7" {
			t.Fatalf("seed %d: attribute %q, %v", seed, value[:max(n, 0)], err)
		}
	}
}

// A file is synced in vain when its name is not; so is an attribute with fdatasync.
func TestWhatIsSyncedHalfMayBeLost(t *testing.T) {
	f := mounted(t)
	vanished, untagged := 0, 0
	for seed := range uint64(20) {
		path := filepath.Join(f.Path(), "file")
		file := create(t, path)
		must(t, unix.Fsetxattr(int(file.Fd()), "user.tag", []byte("7"), 0))
		must(t, errors.Join(unix.Fdatasync(int(file.Fd())), file.Close()))
		_, err := f.PowerCut(seed)
		must(t, err)
		_, err = unix.Getxattr(path, "user.tag", nil)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			vanished++
			continue
		case errors.Is(err, unix.ENODATA):
			untagged++
		case err != nil:
			t.Fatal(err)
		}
		must(t, os.Remove(path))
		syncDirectory(t, f.Path())
	}
	if vanished == 0 || untagged == 0 || vanished == 20 {
		t.Errorf("of 20 files %d vanished, %d lost an attribute", vanished, untagged)
	}
}

// A synchronous write is durable; the mapping of a file shows what is written to it.
func TestWritesThatWaitAndMappings(t *testing.T) {
	f := mounted(t)
	path := filepath.Join(f.Path(), "file")
	file := create(t, path)
	syncDirectory(t, f.Path())
	must(t, file.Truncate(1<<20))
	mapping, err := unix.Mmap(int(file.Fd()), 0, 1<<20, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	if mapping[5000] != 0 {
		t.Error("a new file has content")
	}
	n, err := unix.Pwritev2(int(file.Fd()), [][]byte{[]byte("durable")}, 5000, unix.RWF_DSYNC)
	if err != nil || n != 7 {
		t.Fatalf("%d, %v", n, err)
	}
	if got := string(mapping[5000:5007]); got != "durable" {
		t.Errorf("the mapping shows %q", got)
	}
	must(t, errors.Join(unix.Munmap(mapping), file.Close()))
	for seed := range uint64(5) {
		_, err := f.PowerCut(seed)
		must(t, err)
		got, err := os.ReadFile(path)
		must(t, err)
		if len(got) != 1<<20 || string(got[5000:5007]) != "durable" {
			t.Fatalf("seed %d: %d bytes", seed, len(got))
		}
	}
}

func TestHoles(t *testing.T) {
	f := mounted(t)
	file := create(t, filepath.Join(f.Path(), "file"))
	_, err := file.WriteAt(bytes.Repeat([]byte{1}, 4*pageBytes), 0)
	must(t, err)
	must(t, file.Truncate(10*pageBytes))
	must(t, unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, pageBytes, pageBytes+100))
	tests := []struct {
		whence    int
		off, want int64
	}{
		{unix.SEEK_DATA, 0, 0}, {unix.SEEK_HOLE, 0, pageBytes}, {unix.SEEK_DATA, pageBytes, 2 * pageBytes},
		{unix.SEEK_HOLE, 2 * pageBytes, 4 * pageBytes}, {unix.SEEK_HOLE, 9 * pageBytes, 9 * pageBytes},
	}
	for _, tt := range tests {
		if got, err := file.Seek(tt.off, tt.whence); err != nil || got != tt.want {
			t.Errorf("seek %d from %d: %d, %v; want %d", tt.whence, tt.off, got, err, tt.want)
		}
	}
	if _, err := file.Seek(4*pageBytes, unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
		t.Errorf("data behind the last: %v", err)
	}
	p := make([]byte, 2)
	if _, err := file.ReadAt(p, 2*pageBytes+99); err != nil || p[0] != 0 || p[1] != 1 {
		t.Errorf("around the end of the hole: %v, %v", p, err)
	}
}

// The rest of what a daemon's directory needs.
func TestLocksNamesAndSockets(t *testing.T) {
	f := mounted(t)
	path := filepath.Join(f.Path(), "file")
	file := create(t, path)
	must(t, unix.Flock(int(file.Fd()), unix.LOCK_EX))
	second, err := os.Open(path)
	must(t, err)
	if err := unix.Flock(int(second.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("locked twice: %v", err)
	}
	must(t, second.Close())
	create(t, path+"2")
	err = unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, path+"2", unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EEXIST) {
		t.Errorf("a name was replaced: %v", err)
	}
	listener, err := net.Listen("unix", filepath.Join(f.Path(), "socket"))
	must(t, err)
	client, err := net.Dial("unix", listener.Addr().String())
	must(t, err)
	must(t, errors.Join(client.Close(), listener.Close()))
	must(t, os.MkdirAll(filepath.Join(f.Path(), "a/b/c"), 0o700))
	must(t, os.RemoveAll(filepath.Join(f.Path(), "a")))
	entries, err := os.ReadDir(f.Path())
	if err != nil || len(entries) != 2 || entries[0].Name() != "file" {
		t.Errorf("names %v, %v", entries, err)
	}
}

// A disk that stalls does what came before and nothing of what came after.
func TestStall(t *testing.T) {
	f := mounted(t)
	file := create(t, filepath.Join(f.Path(), "file"))
	syncDirectory(t, f.Path())
	before := f.Changes()
	stalled := f.StallAfter(2)
	done := make(chan error, 1)
	go func() {
		_, first := file.WriteAt([]byte("first"), 0)
		_, second := file.WriteAt([]byte("second"), 10)
		done <- errors.Join(first, second, file.Sync())
	}()
	<-stalled
	if got := f.Changes() - before; got != 2 {
		t.Errorf("%d changes were done", got)
	}
	f.LetGo()
	if err := <-done; !errors.Is(err, unix.EIO) {
		t.Errorf("the sync says %v", err)
	}
	must(t, file.Close())
	loss, err := f.PowerCut(0)
	if err != nil || loss.Writes != 2 {
		t.Errorf("%+v, %v", loss, err)
	}
	must(t, os.WriteFile(filepath.Join(f.Path(), "more"), nil, 0o600))
}

// Who still uses the tree is told.
func TestCloseOfATreeInUse(t *testing.T) {
	f := mounted(t)
	create(t, filepath.Join(f.Path(), "file"))
	if err := f.Close(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("unmounted a tree in use: %v", err)
	}
}
