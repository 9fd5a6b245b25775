package replication

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"duet/bitmap"
)

// UndoFile is where an undo file is kept. Only one process has it open.
type UndoFile interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Size() (int64, error)
	// FreeBytes is how much more fits.
	FreeBytes() (uint64, error)
	Close() error
}

// undoChunkBlocks is how many blocks are read and appended at once.
const undoChunkBlocks = 256

// undoStore saves what is about to be overwritten. A block is saved once; save returns when it is on stable media.
//
// Invariant: no block that is not in a durable record has been overwritten since the file was begun.
type undoStore struct {
	file   UndoFile
	blocks uint64 // of the device

	mu      sync.Mutex // guards what follows, and is held while a block that is not saved is read
	saved   blockSet
	count   uint64 // records in the file
	ended   bool   // nothing has to be saved any more
	failure error

	turn    sync.Mutex // held while the file is synced
	durable uint64     // records known to be on stable media; guarded by mu
}

// blockSet is a set of blocks that costs memory where there are any.
type blockSet map[uint64]*[64]uint64

const blockSetPage = 64 * 64

func (s blockSet) has(block uint64) bool {
	page := s[block/blockSetPage]
	return page != nil && page[block%blockSetPage/64]&(1<<(block%64)) != 0
}

func (s blockSet) add(block uint64) {
	page := s[block/blockSetPage]
	if page == nil {
		page = new([64]uint64)
		s[block/blockSetPage] = page
	}
	page[block%blockSetPage/64] |= 1 << (block % 64)
}

// createUndo begins an undo file; the header is durable on return.
func createUndo(file UndoFile, header *undoHeader) (*undoStore, error) {
	if _, err := file.WriteAt(header.encode(), 0); err != nil {
		return nil, err
	}
	if err := file.Sync(); err != nil {
		return nil, err
	}
	return &undoStore{file: file, blocks: header.SizeBytes / bitmap.BlockBytes, saved: blockSet{}}, nil
}

// openUndo goes on with an undo file. What it was interrupted at is cut off: no block of that was overwritten.
func openUndo(file UndoFile, identity *UndoIdentity) (*undoStore, error) {
	header, err := readUndoHeader(file)
	if err != nil {
		return nil, err
	}
	grown := *identity // the device may have become larger since: what it has more was not there to be saved
	grown.SizeBytes = min(grown.SizeBytes, header.SizeBytes)
	if header.UndoIdentity != grown {
		return nil, fmt.Errorf("it is the undo file of %s on %s, given up in generation %d, not the one of generation %d", header.Resource, header.Node,
			header.DiscardAt, identity.DiscardAt)
	}
	u := &undoStore{file: file, blocks: header.SizeBytes / bitmap.BlockBytes, saved: blockSet{}}
	proven := uint64(0)
	u.count, err = readUndoRecords(file, u.blocks, func(r *undoRecord) error {
		u.saved.add(r.Block)
		proven = max(proven, r.Durable)
		return nil
	})
	if err == nil {
		err = file.Truncate(undoOffset(u.count + 1))
	}
	if err == nil {
		err = u.settle(&header, proven)
	}
	return u, err
}

// settle writes again what may be readable and not durable: after a sync that failed, another one proves nothing.
func (u *undoStore) settle(header *undoHeader, proven uint64) error {
	if proven == 0 {
		if _, err := u.file.WriteAt(header.encode(), 0); err != nil {
			return err
		}
	}
	p := make([]byte, undoRecordBytes)
	for number := proven + 1; number <= u.count; number++ {
		if _, err := u.file.ReadAt(p, undoOffset(number)); err != nil {
			return err
		}
		if _, err := u.file.WriteAt(p, undoOffset(number)); err != nil {
			return err
		}
	}
	if err := u.file.Sync(); err != nil {
		return err
	}
	u.durable = u.count
	return nil
}

func readUndoHeader(file io.ReaderAt) (undoHeader, error) {
	p := make([]byte, undoHeaderBytes)
	if _, err := file.ReadAt(p, 0); errors.Is(err, io.EOF) {
		return undoHeader{}, fmt.Errorf("%w: it is too short", ErrUndoFile)
	} else if err != nil {
		return undoHeader{}, err
	}
	return decodeUndoHeader(p)
}

// readUndoRecords calls visit with each record that counts and returns how many these are. Records that a crash can have torn
// end the file; a record that was durable and is damaged is an error, since the block that it holds may be overwritten.
func readUndoRecords(file io.ReaderAt, blocks uint64, visit func(r *undoRecord) error) (count uint64, err error) {
	p := make([]byte, undoRecordBytes)
	sound, number := true, uint64(0)
	for {
		number++
		n, err := file.ReadAt(p, undoOffset(number))
		if n < undoRecordBytes && (err == nil || errors.Is(err, io.EOF)) {
			return count, nil
		}
		if n < undoRecordBytes {
			return count, fmt.Errorf("record %d: %w", number, err)
		}
		r, ok := decodeUndoRecord(p, number, blocks)
		switch {
		case ok && r.Durable > count && !sound:
			return count, fmt.Errorf("%w: record %d is damaged", ErrUndoFile, count+1)
		case ok && sound:
			count = number
			if err := visit(&r); err != nil {
				return count, err
			}
		default:
			sound = false
		}
	}
}

// save puts what disk holds in the range on stable media, as far as it differs from what is about to be written; incoming nil
// means zeroes.
func (u *undoStore) save(disk io.ReaderAt, off, n uint64, incoming []byte) error {
	need := uint64(0)
	for last := off + n; off < last; {
		first := off / bitmap.BlockBytes
		end := min(last, (first+undoChunkBlocks)*bitmap.BlockBytes)
		piece := incoming
		if incoming != nil {
			piece, incoming = incoming[:end-off], incoming[end-off:]
		}
		appended, err := u.append(disk, span{off, end - off}, piece)
		if err != nil {
			return err
		}
		need, off = max(need, appended), end
	}
	return u.sync(need)
}

// append adds the blocks of one chunk that are not saved and differ. It returns how many records have to be durable before the
// range may be overwritten: also of blocks that another request has just saved.
func (u *undoStore) append(disk io.ReaderAt, at span, incoming []byte) (need uint64, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.failure != nil:
		return 0, u.failure
	case u.ended:
		return 0, nil
	}
	first, last := at.off/bitmap.BlockBytes, (at.off+at.n-1)/bitmap.BlockBytes
	now := make([]byte, (last-first+1)*bitmap.BlockBytes)
	if _, err := disk.ReadAt(now, int64(first*bitmap.BlockBytes)); err != nil {
		return 0, fmt.Errorf("read %d bytes at %d in order to save them: %w", len(now), first*bitmap.BlockBytes, err)
	}
	var records []byte
	number := u.count
	for block := first; block <= last; block++ {
		if u.saved.has(block) || block >= u.blocks {
			need = u.count
			continue
		}
		content := now[(block-first)*bitmap.BlockBytes:][:bitmap.BlockBytes]
		if sameAsIncoming(content, block*bitmap.BlockBytes, at, incoming) {
			continue
		}
		number++
		record := undoRecord{Number: number, Block: block, Durable: u.durable, Content: content}
		records = append(records, make([]byte, undoRecordBytes)...)
		record.encode(records[len(records)-undoRecordBytes:])
	}
	if number == u.count {
		return need, nil
	}
	if _, err := u.file.WriteAt(records, undoOffset(u.count+1)); err != nil {
		u.failure = fmt.Errorf("undo file: %w", err)
		return 0, u.failure
	}
	for p := records; len(p) > 0; p = p[undoRecordBytes:] {
		u.count++
		if r, ok := decodeUndoRecord(p[:undoRecordBytes], u.count, u.blocks); ok {
			u.saved.add(r.Block)
		}
	}
	return u.count, nil
}

// sameAsIncoming reports whether writing the range leaves the block, which begins at blockOff, as it is.
func sameAsIncoming(content []byte, blockOff uint64, at span, incoming []byte) bool {
	from, to := max(at.off, blockOff), min(at.off+at.n, blockOff+bitmap.BlockBytes)
	part := content[from-blockOff : to-blockOff]
	if incoming == nil {
		return allZero(part)
	}
	return bytes.Equal(part, incoming[from-at.off:to-at.off])
}

// sync returns when that many records are on stable media. Those who wait meanwhile share the next sync.
func (u *undoStore) sync(need uint64) error {
	if done, err := u.synced(need); done || err != nil {
		return err
	}
	u.turn.Lock()
	defer u.turn.Unlock()
	if done, err := u.synced(need); done || err != nil {
		return err
	}
	u.mu.Lock()
	target := u.count
	u.mu.Unlock()
	err := u.file.Sync()
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		u.failure = fmt.Errorf("undo file: %w", err)
		return u.failure
	}
	u.durable = max(u.durable, target)
	return nil
}

func (u *undoStore) synced(need uint64) (bool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.durable >= need, u.failure
}

// records is how many blocks are saved.
func (u *undoStore) records() uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.count
}

// end says that nothing has to be saved any more, because the replica is in sync; else everything that is still to be saved
// fails. Either way the file is closed.
func (u *undoStore) end(finished bool) error {
	u.turn.Lock()
	defer u.turn.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	if finished {
		u.ended = true
	} else if u.failure == nil {
		u.failure = ErrClosed
	}
	return u.file.Close()
}

// UndoContent is what an undo file says of itself.
type UndoContent struct {
	UndoIdentity
	Created string // RFC 3339
	Blocks  uint64
}

// ReadUndo checks an undo file and calls visit with each block as it was; the content is valid during the call.
func ReadUndo(file io.ReaderAt, visit func(offset uint64, content []byte) error) (UndoContent, error) {
	header, err := readUndoHeader(file)
	if err != nil {
		return UndoContent{}, err
	}
	count, err := readUndoRecords(file, header.SizeBytes/bitmap.BlockBytes, func(r *undoRecord) error {
		return visit(r.Block*bitmap.BlockBytes, r.Content)
	})
	return UndoContent{UndoIdentity: header.UndoIdentity, Created: header.Created.UTC().Format("2006-01-02T15:04:05Z"), Blocks: count}, err
}
