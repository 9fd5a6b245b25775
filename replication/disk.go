package replication

// Disk is the lower-level device of a replica: a file or a block device. All methods are safe for concurrent use.
type Disk interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// WriteDurableAt returns when the range is on stable media.
	WriteDurableAt(p []byte, off int64) (int, error)
	// Sync makes everything durable that was written before the call.
	Sync() error
	// Punch makes the range read as zeroes and may free its space; Zero does so and keeps the space.
	Punch(off, n int64) error
	Zero(off, n int64) error
	// Extents calls emit for consecutive runs of data and holes that cover the range.
	Extents(off, n int64, emit func(n int64, hole bool) error) error
	SizeBytes() int64
	// Tag and SetTag keep a counter with the disk, so that a disk or its metadata restored alone is noticed.
	Tag() (uint64, error)
	SetTag(tag uint64) error
	Close() error
}

// nowaitReader is a Disk that can answer a read at once from memory. It returns an error when it would have to wait.
type nowaitReader interface {
	ReadNowaitAt(p []byte, off int64) (int, error)
}

// MetadataFile is the region that holds a replica's metadata.
type MetadataFile interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Sync() error
	Size() int64
	Close() error
}
