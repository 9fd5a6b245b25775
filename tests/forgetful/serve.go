package forgetful

import (
	"maps"
	"slices"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// maxRequestBytes is the longest read or write in one request.
	maxRequestBytes = 128 << 10
	// cacheTime is how long the kernel may believe what it was told: for ever, since nobody else changes anything.
	cacheTime = 24 * time.Hour
)

// served answers the kernel's requests. It holds the lock of the tree for each; what it does not answer is refused.
//
// Locks are the kernel's own business, and so are mappings: it writes through, so its cache always agrees with the tree.
type served struct {
	fuse.RawFileSystem
	*FS
}

func newServed(f *FS) *served {
	return &served{RawFileSystem: fuse.NewDefaultRawFileSystem(), FS: f}
}

// String names the filesystem.
func (s *served) String() string { return "forgetful" }

// with runs an answer on the node that a request is about.
func (s *served) with(number uint64, answer func(n *node) fuse.Status) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[number]; n != nil {
		return answer(n)
	}
	return fuse.ENOENT
}

// change is with for what changes something or makes it durable: it waits for as long as the disk stalls.
func (s *served) change(number uint64, answer func(n *node) fuse.Status) fuse.Status {
	if !s.stall.pass() {
		return fuse.EIO
	}
	return s.with(number, answer)
}

// withFile is with for regular files.
func (s *served) withFile(number uint64, answer func(f *file) fuse.Status) fuse.Status {
	return s.with(number, onFile(answer))
}

func (s *served) changeFile(number uint64, answer func(f *file) fuse.Status) fuse.Status {
	return s.change(number, onFile(answer))
}

func onFile(answer func(f *file) fuse.Status) func(n *node) fuse.Status {
	return func(n *node) fuse.Status {
		if n.file == nil {
			return fuse.EINVAL
		}
		return answer(n.file)
	}
}

// withDirectory is with for directories.
func (s *served) withDirectory(number uint64, answer func(d *directory) fuse.Status) fuse.Status {
	return s.with(number, onDirectory(answer))
}

func (s *served) changeDirectory(number uint64, answer func(d *directory) fuse.Status) fuse.Status {
	return s.change(number, onDirectory(answer))
}

func onDirectory(answer func(d *directory) fuse.Status) func(n *node) fuse.Status {
	return func(n *node) fuse.Status {
		if n.directory == nil {
			return fuse.ENOTDIR
		}
		return answer(n.directory)
	}
}

func (n *node) fill(out *fuse.Attr) {
	out.Ino, out.Mode, out.Nlink, out.Blksize = n.number, n.mode, 1, pageBytes
	if n.file != nil {
		out.Size = uint64(n.file.current.sizeBytes)
		out.Blocks = uint64(len(n.file.current.pages)) * pageBytes / sectorBytes
	}
}

func (n *node) fillEntry(out *fuse.EntryOut) {
	out.NodeId = n.number
	out.SetEntryTimeout(cacheTime)
	out.SetAttrTimeout(cacheTime)
	n.fill(&out.Attr)
}

// Lookup finds a name.
func (s *served) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return s.withDirectory(header.NodeId, func(d *directory) fuse.Status {
		n := d.current[name]
		if n == nil {
			return fuse.ENOENT
		}
		n.fillEntry(out)
		return fuse.OK
	})
}

// GetAttr is stat.
func (s *served) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return s.with(in.NodeId, func(n *node) fuse.Status {
		out.SetTimeout(cacheTime)
		n.fill(&out.Attr)
		return fuse.OK
	})
}

// SetAttr changes size and permissions; owners and times are not kept.
func (s *served) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	return s.change(in.NodeId, func(n *node) fuse.Status {
		if sizeBytes, ok := in.GetSize(); ok {
			if n.file == nil {
				return fuse.EINVAL
			}
			n.file.resize(int64(sizeBytes))
		}
		if mode, ok := in.GetMode(); ok {
			n.mode = n.mode&unix.S_IFMT | mode
		}
		out.SetTimeout(cacheTime)
		n.fill(&out.Attr)
		return fuse.OK
	})
}

// add makes a node with a name in a directory.
func (s *served) add(parent uint64, name string, mode uint32, out *fuse.EntryOut) fuse.Status {
	return s.changeDirectory(parent, func(d *directory) fuse.Status {
		if d.current[name] != nil {
			return fuse.Status(unix.EEXIST)
		}
		s.last++
		n := newNode(s.last, mode)
		s.nodes[n.number] = n
		d.do(naming{name, n})
		n.fillEntry(out)
		return fuse.OK
	})
}

// Mknod makes a socket or a file.
func (s *served) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.add(in.NodeId, name, in.Mode, out)
}

// Mkdir makes a directory.
func (s *served) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.add(in.NodeId, name, unix.S_IFDIR|in.Mode&^unix.S_IFMT, out)
}

// Create makes a file; the kernel has looked before that there is none.
func (s *served) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return s.add(in.NodeId, name, unix.S_IFREG|in.Mode&^unix.S_IFMT, &out.EntryOut)
}

// Unlink takes a name away.
func (s *served) Unlink(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	return s.changeDirectory(header.NodeId, func(d *directory) fuse.Status {
		if d.current[name] == nil {
			return fuse.ENOENT
		}
		d.do(naming{name: name})
		return fuse.OK
	})
}

// Rmdir takes the name of an empty directory away.
func (s *served) Rmdir(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	return s.changeDirectory(header.NodeId, func(d *directory) fuse.Status {
		n := d.current[name]
		if n == nil || n.directory == nil {
			return fuse.ENOENT
		}
		if len(n.directory.current) > 0 {
			return fuse.Status(unix.ENOTEMPTY)
		}
		d.do(naming{name: name})
		return fuse.OK
	})
}

// Rename gives a node another name in its directory.
func (s *served) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	return s.changeDirectory(in.NodeId, func(d *directory) fuse.Status {
		n := d.current[from]
		switch {
		case in.NodeId != in.Newdir:
			return fuse.EXDEV
		case in.Flags&^unix.RENAME_NOREPLACE != 0:
			return fuse.EINVAL
		case n == nil:
			return fuse.ENOENT
		case in.Flags != 0 && d.current[to] != nil:
			return fuse.Status(unix.EEXIST)
		}
		d.do(naming{name: from}, naming{to, n})
		return fuse.OK
	})
}

// Open opens a file. What the kernel has of it in its cache stays good.
func (s *served) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return s.withFile(in.NodeId, func(f *file) fuse.Status {
		if in.Flags&unix.O_TRUNC != 0 {
			f.resize(0)
		}
		return fuse.OK
	})
}

// Read reads.
func (s *served) Read(_ <-chan struct{}, in *fuse.ReadIn, p []byte) (fuse.ReadResult, fuse.Status) {
	n := 0
	status := s.withFile(in.NodeId, func(f *file) fuse.Status {
		n = f.current.read(p, int64(in.Offset))
		return fuse.OK
	})
	return fuse.ReadResultData(p[:n]), status
}

// Write writes.
func (s *served) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	status := s.changeFile(in.NodeId, func(f *file) fuse.Status {
		f.write(slices.Clone(data), int64(in.Offset))
		return fuse.OK
	})
	return uint32(len(data)), status
}

// Fallocate reserves, punches or zeroes a range.
func (s *served) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return s.changeFile(in.NodeId, func(f *file) fuse.Status {
		off, n := int64(in.Offset), int64(in.Length)
		switch in.Mode {
		case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
			f.zero(off, n)
		case 0:
			f.resize(max(f.current.sizeBytes, off+n))
		default:
			return fuse.Status(unix.EOPNOTSUPP)
		}
		return fuse.OK
	})
}

// Lseek finds data and holes.
func (s *served) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	return s.withFile(in.NodeId, func(f *file) fuse.Status {
		if int64(in.Offset) >= f.current.sizeBytes {
			return fuse.Status(unix.ENXIO)
		}
		off, found := f.current.seek(int64(in.Offset), in.Whence == unix.SEEK_DATA)
		if !found {
			return fuse.Status(unix.ENXIO)
		}
		out.Offset = uint64(off)
		return fuse.OK
	})
}

// Flush is close; it makes nothing durable.
func (s *served) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// fsyncDatasync is the flag of fdatasync.
const fsyncDatasync = 1

// Fsync makes a file durable, all of it or its content only.
func (s *served) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return s.change(in.NodeId, func(n *node) fuse.Status {
		if n.file == nil {
			return fuse.EINVAL
		}
		n.file.sync()
		if in.FsyncFlags&fsyncDatasync == 0 {
			n.attributes.sync()
		}
		return fuse.OK
	})
}

// FsyncDir makes the names in a directory durable.
func (s *served) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return s.changeDirectory(in.NodeId, func(d *directory) fuse.Status {
		d.sync()
		return fuse.OK
	})
}

// OpenDir takes a copy of the names, so that a reader who removes what it finds misses nothing.
func (s *served) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return s.withDirectory(in.NodeId, func(d *directory) fuse.Status {
		var entries []fuse.DirEntry
		for _, name := range slices.Sorted(maps.Keys(d.current)) {
			n := d.current[name]
			entries = append(entries, fuse.DirEntry{Name: name, Mode: n.mode, Ino: n.number})
		}
		s.last++ // Handles and nodes are numbered together, which keeps both unique.
		out.Fh = s.last
		s.listing[out.Fh] = entries
		return fuse.OK
	})
}

// ReadDir lists names.
func (s *served) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := s.listing[in.Fh]
	for _, entry := range entries[min(in.Offset, uint64(len(entries))):] {
		if !out.AddDirEntry(entry) {
			break
		}
	}
	return fuse.OK
}

// ReleaseDir forgets the copy of the names.
func (s *served) ReleaseDir(in *fuse.ReleaseIn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listing, in.Fh)
}

// GetXAttr reads an extended attribute.
func (s *served) GetXAttr(_ <-chan struct{}, header *fuse.InHeader, name string, p []byte) (uint32, fuse.Status) {
	length := 0
	status := s.with(header.NodeId, func(n *node) fuse.Status {
		value, ok := n.attributes.current[name]
		if !ok {
			return fuse.ENODATA
		}
		length = len(value)
		if len(p) > 0 && len(p) < length {
			return fuse.ERANGE
		}
		copy(p, value)
		return fuse.OK
	})
	return uint32(length), status
}

// SetXAttr writes an extended attribute.
func (s *served) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	return s.change(in.NodeId, func(n *node) fuse.Status {
		n.attributes.current[name] = slices.Clone(value)
		return fuse.OK
	})
}
