package tests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"duet/tests/cluster"
	"duet/tests/forgetful"
)

// lockable reports whether nobody holds the lock of a disk.
func lockable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), f.Close())
}

// The disk of either node is detached under load, looked at, and attached again: the application meets no error, and what is
// copied is what was written meanwhile.
func TestDetachAndAttach(t *testing.T) {
	for _, name := range []string{"a", "b"} {
		t.Run(map[string]string{"a": "Primary", "b": "Secondary"}[name], func(t *testing.T) {
			s := start(t)
			s.create("r0", "128MiB")
			primary, node := s.Node("a"), s.Node(name)
			run(t, "qemu-io", "-f", "raw", "-c", "write -P 0x11 0 128M", "-c", "flush", primary.URI("r0"))
			r := newRecorder(1024, 2048) // 8 MiB in the middle
			l := r.begin(t, primary.URI("r0"))
			l.waitWrites(t, 200)
			if err := lockable(s.Disk(name, "r0")); err == nil {
				t.Error("the disk in use is not locked")
			}
			r.markPause()
			s.duet(node, "detach", "r0")
			if err := lockable(s.Disk(name, "r0")); err != nil {
				t.Errorf("the detached disk: %v", err)
			}
			s.inSyncAre(primary, map[string]string{"a": "b", "b": "a"}[name])
			if next := s.duet(node, "status", "r0"); !strings.Contains(next, "duet attach r0") {
				t.Errorf("the status does not say what to do:\n%s", next)
			}
			l.waitWrites(t, 500)
			s.duet(node, "attach", "r0")
			s.inSync("r0")
			l.waitWrites(t, 200)
			if err := l.end(); err != nil {
				t.Fatal(err)
			}
			t.Logf("longest pause of the writes: %v", r.pause().Round(time.Millisecond))
			received := s.until(node, "r0", "the peer", func(*cluster.Resource) error { return nil }).
				Connections[0].PeerDevices[0].ReceivedKiB
			t.Logf("%d KiB were copied", received)
			if limit := r.touched() * blockBytes >> 10; received == 0 || received > limit {
				t.Errorf("%d KiB were copied, %d KiB were written at most", received, limit)
			}
			r.verify(t, primary.URI("r0"))
			s.identical("r0")
		})
	}
}

// startWithStall starts a cluster with a resource r0 whose disk on node a is on a filesystem that can stall.
func startWithStall(t *testing.T) (*scenario, *forgetful.FS) {
	t.Helper()
	var fs *forgetful.FS
	var image string
	s := start(t, func(c *cluster.Config) {
		mount := filepath.Join(c.Dir, "a.disk")
		fs, image = mountForgetful(t, mount), filepath.Join(mount, "r0.img")
	})
	t.Cleanup(fs.Resume)
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(64<<20), f.Close(), os.Symlink(image, s.Disk("a", "r0")))
	}
	if err == nil {
		err = s.CreateResource(t.Context(), "r0", "64MiB", "--assume-clean", "--disk-timeout", "1s")
	}
	if err != nil {
		t.Fatal(err)
	}
	return s, fs
}

// The disk of either role stops to answer: the application waits for as long as the disk timeout, meets no error, and the node
// goes on without its disk. When the disk answers again it is attached anew.
func TestStuckDisk(t *testing.T) {
	if err := forgetful.Available(); err != nil {
		t.Skip(err) // also in CI: no package brings /dev/fuse
	}
	for _, role := range []string{"Primary", "Secondary"} {
		t.Run(role, func(t *testing.T) {
			s, fs := startWithStall(t)
			stuck, primary := s.Node("a"), s.Node("a")
			if role == "Secondary" {
				primary = s.Node("b")
				s.duet(stuck, "secondary", "r0")
				s.duet(primary, "primary", "r0")
			}
			r := newRecorder(0, 4096)
			l := r.begin(t, primary.URI("r0"))
			l.waitWrites(t, 200)
			r.markPause()
			<-fs.StallAfter(20)
			s.until(stuck, "r0", "the disk to be given up", func(r *cluster.Resource) error {
				if state := r.DiskState(); state != "Failed" {
					return fmt.Errorf("it is %s", state)
				}
				return nil
			})
			l.waitWrites(t, 500)
			t.Logf("longest pause of the writes: %v", r.pause().Round(time.Millisecond))
			if status := s.duet(stuck, "status", "r0"); !strings.Contains(status, "has not returned for") || !strings.Contains(status, "duet attach r0") {
				t.Errorf("the status is\n%s", status)
			}
			if result, err := stuck.Command(t.Context(), "--timeout", "1s", "attach", "r0"); err != nil || result.ExitCode == 0 {
				t.Errorf("attached while it is stuck: %+v, %v", result, err)
			}
			fs.Resume()
			s.duet(stuck, "attach", "r0")
			s.inSync("r0")
			l.waitWrites(t, 200)
			if err := l.end(); err != nil {
				t.Fatal(err)
			}
			if pause := r.pause(); pause > 5*time.Second {
				t.Errorf("writes paused for %v", pause)
			}
			r.verify(t, primary.URI("r0"))
			s.identical("r0")
		})
	}
}

// Another disk takes the place of the one that a node had, under load: it gets everything, the application meets no error, and a
// restart of the daemon uses it. A disk that holds something is refused, and nothing has changed then.
func TestReplaceDisk(t *testing.T) {
	for _, name := range []string{"a", "b"} {
		t.Run(map[string]string{"a": "Primary", "b": "Secondary"}[name], func(t *testing.T) {
			s := start(t)
			s.create("r0", "64MiB")
			primary, node := s.Node("a"), s.Node(name)
			run(t, "qemu-io", "-f", "raw", "-c", "write -P 0x11 0 32M", "-c", "flush", primary.URI("r0"))
			r := newRecorder(1024, 2048)
			l := r.begin(t, primary.URI("r0"))
			l.waitWrites(t, 200)
			old, fresh := s.Disk(name, "r0"), filepath.Join(s.dir, "fresh.img")
			s.refused(node, refusal{arguments: []string{"attach", "r0", "--disk", fresh}, code: exitRefused})
			s.duet(node, "detach", "r0")
			s.inSyncAre(primary, map[string]string{"a": "b", "b": "a"}[name])
			used := filepath.Join(s.dir, "used.img")
			if err := os.WriteFile(used, []byte(strings.Repeat("data", 16<<20)), 0o600); err != nil {
				t.Fatal(err)
			}
			s.refused(node, refusal{arguments: []string{"attach", "r0", "--disk", used}, code: exitRefused})
			if record := s.duet(node, "resource", "show", "r0"); !strings.Contains(record, old) {
				t.Errorf("the record has changed:\n%s", record)
			}
			s.duet(node, "attach", "r0", "--disk", fresh)
			if record := s.duet(primary, "resource", "show", "r0"); !strings.Contains(record, fresh) || strings.Contains(record, old) {
				t.Errorf("the record is\n%s", record)
			}
			s.inSync("r0")
			l.waitWrites(t, 200)
			if err := l.end(); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(old, old+".old"); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(fresh, old); err != nil { // for identical
				t.Fatal(err)
			}
			r.verify(t, primary.URI("r0"))
			s.identical("r0")
			s.stop(node)
			s.restart(node)
			if name == "a" {
				s.promote(primary, "r0")
			}
			s.inSync("r0")
			r.verify(t, primary.URI("r0"))
		})
	}
}

// A disk whose content is not what its metadata say gets everything anew, in its own place; the last copy is not given up.
func TestInvalidate(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	primary, node := s.Node("a"), s.Node("b")
	r := newRecorder(1024, 2048)
	l := r.begin(t, primary.URI("r0"))
	l.waitWrites(t, 200)
	disk, err := os.OpenFile(s.Disk("b", "r0"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := disk.WriteAt([]byte(strings.Repeat("decay...", 1<<17)), 40<<20); err != nil { // where nothing was written, or will be
		t.Fatal(err)
	}
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	s.duet(node, "invalidate", "r0")
	s.inSync("r0")
	l.waitWrites(t, 200)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	r.verify(t, primary.URI("r0"))
	s.identical("r0")
	s.duet(node, "detach", "r0")
	s.inSyncAre(primary, "a")
	s.refused(primary, refusal{arguments: []string{"invalidate", "r0"}, code: exitRefused})
	s.duet(node, "invalidate", "r0")
	s.inSync("r0")
}
