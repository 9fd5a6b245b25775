package replication

import (
	"errors"
	"fmt"
	"io"

	"duet/bitmap"
)

// superblockStore keeps the superblock of an attached replica in a region of its metadata.
//
// There are two copies, one behind the other, and at rest both hold the newest content. A write goes first to the copy
// that is not known to be durable, then syncs, which makes it count, and then brings the other copy up to date without
// a sync. So at any moment one copy is durable and is not being written, and a copy that decays later brings back no
// older promise.
type superblockStore struct {
	region bitmap.Region
	sb     Superblock
	target int // the copy that the next write goes to first
	failed error
}

// superblockReport is what opening found.
type superblockReport struct {
	Copies [superblockCopies]copyState
	Chosen int // the copy that counts
	// Stale: a copy is bad or older than the other, as after a crash during a write.
	Stale bool
}

// readSuperblock finds the newest good copy in region and changes nothing. The error is ErrNoMetadata,
// ErrForeignMetadata or ErrDamagedMetadata.
func readSuperblock(region bitmap.View) (Superblock, superblockReport, error) {
	var report superblockReport
	var copies [superblockCopies]Superblock
	var readErr error
	best := -1
	for i := range copies {
		block, err := readSuperblockCopy(region, i)
		if err != nil {
			report.Copies[i], readErr = copyDamaged, errors.Join(readErr, err)
			continue
		}
		copies[i], report.Copies[i] = decodeSuperblock(block)
		if report.Copies[i] == copyGood && (best < 0 || copies[i].Sequence > copies[best].Sequence) {
			best = i
		}
	}
	if err := report.verdict(best >= 0, readErr); err != nil {
		return Superblock{}, report, err
	}
	report.Chosen = best
	report.Stale = report.Copies[1-best] != copyGood || copies[1-best].Sequence != copies[best].Sequence
	if need, have := copies[best].Layout().TotalBytes, region.Size(); have < need {
		return Superblock{}, report, fmt.Errorf("%w (it was cut short: %d of %d bytes are there)", ErrDamagedMetadata, have, need)
	}
	return copies[best], report, nil
}

// verdict is the error that the states of both copies amount to.
func (r *superblockReport) verdict(good bool, readErr error) error {
	has := func(state copyState) bool { return r.Copies[0] == state || r.Copies[1] == state }
	switch {
	case has(copyVersion):
		return fmt.Errorf("%w: its superblock is of another version", ErrForeignMetadata)
	case good:
		return nil
	case has(copyDamaged):
		return errors.Join(fmt.Errorf("%w (copies: %s, %s)", ErrDamagedMetadata, r.Copies[0], r.Copies[1]), readErr)
	case has(copyForeign):
		return fmt.Errorf("%w: the region holds something else", ErrForeignMetadata)
	}
	return ErrNoMetadata
}

// readSuperblockCopy returns nil for a copy that lies behind the end of the region.
func readSuperblockCopy(region bitmap.View, index int) ([]byte, error) {
	offset := int64(index) * superblockBytes
	if region.Size() < offset+superblockBytes {
		return nil, nil
	}
	block := make([]byte, superblockBytes)
	if n, err := region.ReadAt(block, offset); err != nil && (n < len(block) || !errors.Is(err, io.EOF)) {
		return nil, fmt.Errorf("read superblock copy %d: %w", index, err)
	}
	return block, nil
}

// openSuperblock reads the superblock and prepares to write it. It syncs the region first: what a killed process left
// may be readable and not durable, and the next write relies on the copy that it does not touch.
func openSuperblock(region bitmap.Region) (*superblockStore, superblockReport, error) {
	if err := region.Sync(); err != nil {
		return nil, superblockReport{}, fmt.Errorf("sync metadata: %w", err)
	}
	sb, report, err := readSuperblock(region)
	if err != nil {
		return nil, report, err
	}
	return &superblockStore{region: region, sb: sb, target: 1 - report.Chosen}, report, nil
}

// formatSuperblock writes the first superblock of a replica; both copies are durable on return. Whatever lies behind it
// must be in place before, so that metadata is there whole or not at all: wipeSuperblock, bitmap.Format, formatSuperblock.
func formatSuperblock(region bitmap.Region, sb Superblock) error {
	if need := sb.Layout().TotalBytes; region.Size() < need {
		return fmt.Errorf("metadata needs %d bytes, only %d are there", need, region.Size())
	}
	sb.Sequence = 1
	block := make([]byte, superblockBytes)
	if err := sb.encode(block); err != nil {
		return err
	}
	return writeSuperblockCopies(region, block)
}

// wipeSuperblock makes the region read as one without metadata, durably. A crash in between leaves the metadata as it
// was, or unreadable, never anything older: the copy that the last write left without a sync is made durable first.
func wipeSuperblock(region bitmap.Region) error {
	if err := region.Sync(); err != nil {
		return fmt.Errorf("sync metadata: %w", err)
	}
	return writeSuperblockCopies(region, make([]byte, superblockBytes))
}

func writeSuperblockCopies(region bitmap.Region, block []byte) error {
	for i := range superblockCopies {
		if _, err := region.WriteAt(block, int64(i)*superblockBytes); err != nil {
			return fmt.Errorf("write superblock: %w", err)
		}
	}
	if err := region.Sync(); err != nil {
		return fmt.Errorf("sync superblock: %w", err)
	}
	return nil
}

// superblock returns what the last write made durable.
func (s *superblockStore) superblock() Superblock { return s.sb }

// write makes sb durable, with the next sequence. After a failure nothing is known about either copy, so the store
// stays failed: a sync that failed once may succeed the next time without having written anything.
func (s *superblockStore) write(sb Superblock) error {
	if s.failed != nil {
		return s.failed
	}
	sb.Sequence = s.sb.Sequence + 1
	block := make([]byte, superblockBytes)
	if err := sb.encode(block); err != nil {
		return err
	}
	if err := s.writeBlock(block); err != nil {
		s.failed = fmt.Errorf("write superblock: %w", err)
		return s.failed
	}
	s.sb, s.target = sb, 1-s.target
	return nil
}

func (s *superblockStore) writeBlock(block []byte) error {
	if _, err := s.region.WriteAt(block, int64(s.target)*superblockBytes); err != nil {
		return err
	}
	if err := s.region.Sync(); err != nil {
		return err
	}
	_, err := s.region.WriteAt(block, int64(1-s.target)*superblockBytes)
	return err
}

// bitmapRegion is the part of a replica's metadata that belongs to package bitmap.
type bitmapRegion struct {
	metadata bitmap.Region
	layout   MetadataLayout
}

// newBitmapRegion returns the bitmap region of metadata.
func newBitmapRegion(metadata bitmap.Region, layout MetadataLayout) bitmap.Region {
	return &bitmapRegion{metadata: metadata, layout: layout}
}

// ReadAt reads from the region.
func (r *bitmapRegion) ReadAt(p []byte, off int64) (int, error) {
	if err := r.check(p, off); err != nil {
		return 0, err
	}
	return r.metadata.ReadAt(p, r.layout.BitmapOffset+off)
}

// WriteAt writes to the region.
func (r *bitmapRegion) WriteAt(p []byte, off int64) (int, error) {
	if err := r.check(p, off); err != nil {
		return 0, err
	}
	return r.metadata.WriteAt(p, r.layout.BitmapOffset+off)
}

func (r *bitmapRegion) check(p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > r.layout.BitmapBytes {
		return fmt.Errorf("%d bytes at %d are outside of the bitmap region", len(p), off)
	}
	return nil
}

// Sync makes the region durable.
func (r *bitmapRegion) Sync() error { return r.metadata.Sync() }

// Size is the length of the region in bytes.
func (r *bitmapRegion) Size() int64 { return r.layout.BitmapBytes }

// Wipe makes metadata unrecognizable, durably: nothing here is a replica any more.
func Wipe(meta MetadataFile) error { return wipeSuperblock(meta) }
