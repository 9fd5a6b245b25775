package forgetful

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The fault model. What is durable is what POSIX promises, and nothing that filesystems do beyond it:
//
//   - The content of a file is durable as of its last fsync, fdatasync or synchronous write. The kernel does not tell a
//     FUSE filesystem the range of a synchronous write, so one makes the whole file durable.
//   - A name is durable as of the last fsync of its directory: syncing a file does not save its name.
//   - Extended attributes are durable as of the last fsync of the file; fdatasync leaves them out.
//   - Permissions are durable at once.
//
// At a power cut each later change is kept, lost or, for a write, torn: some of its 512-byte sectors are kept. So every
// sector ends as any of the versions it had since it was durable, in no order with any other sector, and the file with
// any of the lengths it had. A rename is kept or lost as a whole. For some files everything is kept or lost, since that is
// what happens to files as a whole when the kernel has just written them back, or has not begun to.
//
// There are no links, and no renames between directories.

// sectorBytes is what a disk writes whole or not at all.
const sectorBytes = 512

// FS is one mounted tree.
type FS struct {
	path  string
	stall *stall

	mu      sync.Mutex
	nodes   map[uint64]*node // all that the kernel may know, also those without a name
	last    uint64           // the highest number that a node has
	listing map[uint64][]fuse.DirEntry
	server  *fuse.Server // nil while it is not mounted
}

// node is a file, a directory or a socket.
type node struct {
	number     uint64
	mode       uint32 // type and permissions
	file       *file
	directory  *directory
	attributes attributes
}

// Loss counts what a power cut found not to be durable, and what became of it.
type Loss struct {
	Writes, WritesLost, WritesTorn int
	Names, NamesLost               int
}

// Available says why no tree can be mounted here; nil when it can.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("mounting needs root")
	}
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("mounting needs FUSE: %w", err)
	}
	return device.Close()
}

// Mount makes an empty tree and mounts it on an existing directory.
func Mount(path string) (*FS, error) {
	f := &FS{path: path, stall: newStall(), nodes: make(map[uint64]*node), listing: make(map[uint64][]fuse.DirEntry)}
	f.nodes[fuse.FUSE_ROOT_ID] = newNode(fuse.FUSE_ROOT_ID, unix.S_IFDIR|0o700)
	f.last = fuse.FUSE_ROOT_ID
	return f, f.mount()
}

func newNode(number uint64, mode uint32) *node {
	n := &node{number: number, mode: mode, attributes: newAttributes()}
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.file = newFile()
	case unix.S_IFDIR:
		n.directory = newDirectory()
	}
	return n
}

// Path is where the tree is mounted.
func (f *FS) Path() string { return f.path }

// PowerCut loses what is not durable, as the seed decides, and mounts what is left. Every process that uses the tree
// must have ended before.
func (f *FS) PowerCut(seed uint64) (Loss, error) {
	if err := f.Close(); err != nil {
		return Loss{}, err
	}
	f.stall.reset()
	return f.forget(rand.New(rand.NewPCG(seed, 0))), f.mount()
}

// forget decides what survives, in an order that depends on nothing but what was done.
func (f *FS) forget(random *rand.Rand) Loss {
	f.mu.Lock()
	defer f.mu.Unlock()
	var loss Loss
	numbers := make([]uint64, 0, len(f.nodes))
	for number := range f.nodes {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	for _, number := range numbers {
		n := f.nodes[number]
		n.attributes.forget(random)
		if n.file != nil {
			n.file.forget(random, &loss)
		}
		if n.directory != nil {
			n.directory.forget(random, &loss)
		}
	}
	named := make(map[uint64]*node)
	f.nodes[fuse.FUSE_ROOT_ID].collect(named)
	f.nodes = named
	clear(f.listing)
	return loss
}

// collect finds what still has a name.
func (n *node) collect(named map[uint64]*node) {
	named[n.number] = n
	if n.directory == nil {
		return
	}
	for _, child := range n.directory.current {
		child.collect(named)
	}
}

// UnsyncedNames lists the paths, below the root, that a power cut may take away or bring back.
func (f *FS) UnsyncedNames() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[fuse.FUSE_ROOT_ID].directory.unsyncedNames("")
}

// mount attaches the tree. The mount is made here and not by the library, whose descriptor would be inherited by every
// process that is started.
func (f *FS) mount() error {
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0,max_read=%d", device, unix.S_IFDIR, maxRequestBytes)
	if err := unix.Mount("forgetful", f.path, "fuse.forgetful", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return errors.Join(fmt.Errorf("mount on %s: %w", f.path, err), unix.Close(device))
	}
	server, err := fuse.NewServer(newServed(f), fmt.Sprintf("/dev/fd/%d", device), &fuse.MountOptions{
		MaxWrite: maxRequestBytes, DisableReadDirPlus: true, ExplicitDataCacheControl: true, Name: "forgetful",
	})
	if err != nil {
		return errors.Join(fmt.Errorf("serve %s: %w", f.path, err), unix.Unmount(f.path, unix.MNT_DETACH))
	}
	f.server = server
	go server.Serve() // It owns the requests of this mount and ends with it: Close waits for that.
	return f.refusePolling()
}

// refusePolling has the kernel learn that this filesystem cannot be polled. Otherwise it would ask at the first open by
// a Go program, which for one in this very process may be a question that nobody is free to answer.
func (f *FS) refusePolling() error {
	fd, err := unix.Open(filepath.Join(f.path, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("look at %s: %w", f.path, err)
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return errors.Join(err, unix.Close(fd))
}

// Close unmounts the tree and keeps it. It may be called again. Somebody who still uses the tree is an error, after
// which it is out of everybody else's sight all the same.
func (f *FS) Close() error {
	if f.server == nil {
		return nil
	}
	err := unix.Unmount(f.path, 0)
	if err != nil {
		err = fmt.Errorf("unmount %s: %w", f.path, errors.Join(err, unix.Unmount(f.path, unix.MNT_DETACH)))
		f.server = nil
		return err
	}
	f.server.Wait()
	f.server = nil
	return nil
}
