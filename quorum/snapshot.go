package quorum

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
)

// A snapshot is the whole State, with the log index it stands for. All integers are little-endian.
//
//	 0               8       12      16                      24
//	+---------------+-------+-------+-----------------------+---------- - -
//	| "DUETQSNP"    | vers. | CRC   | length of the JSON    | JSON
//	+---------------+-------+-------+-----------------------+---------- - -
//
// CRC is the CRC32C of the JSON. Version is 1.
const (
	snapshotMagic       = "DUETQSNP"
	snapshotVersion     = 1
	snapshotHeaderBytes = 24
	// maxSnapshotBytes is above what the bounds of state.go allow in the worst case: every resource there may be, with a
	// full history in which every reason needs escaping. So what was written can be read. Real ones have some KiB.
	maxSnapshotBytes = 1 << 30
)

// snapshotBody is the JSON of a snapshot.
type snapshotBody struct {
	Index uint64 `json:"index"`
	State *State `json:"state"`
}

// encodeSnapshot returns the bytes of a snapshot of s as of log index.
func encodeSnapshot(s *State, index uint64) ([]byte, error) {
	body, err := json.Marshal(snapshotBody{Index: index, State: s})
	if err != nil {
		return nil, fmt.Errorf("quorum: encode snapshot: %w", err)
	}
	data := make([]byte, 0, snapshotHeaderBytes+len(body))
	data = append(data, snapshotMagic...)
	data = binary.LittleEndian.AppendUint32(data, snapshotVersion)
	data = binary.LittleEndian.AppendUint32(data, crc32.Checksum(body, castagnoli()))
	data = binary.LittleEndian.AppendUint64(data, uint64(len(body)))
	return append(data, body...), nil
}

// decodeSnapshot reads a snapshot and checks it before anyone believes it.
func decodeSnapshot(r io.Reader) (*State, uint64, error) {
	var header [snapshotHeaderBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, 0, fmt.Errorf("%w: header: %w", ErrDamaged, err)
	}
	if magic := string(header[:8]); magic != snapshotMagic {
		return nil, 0, fmt.Errorf("%w: magic %q, want %q", ErrDamaged, magic, snapshotMagic)
	}
	if version := binary.LittleEndian.Uint32(header[8:]); version != snapshotVersion {
		return nil, 0, fmt.Errorf("%w: version %d, this node knows %d", ErrDamaged, version, snapshotVersion)
	}
	length := binary.LittleEndian.Uint64(header[16:])
	if length > maxSnapshotBytes {
		return nil, 0, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrDamaged, length, maxSnapshotBytes)
	}
	// The buffer grows with what really arrives; the length alone allocates nothing.
	body, err := io.ReadAll(io.LimitReader(r, int64(length)))
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	case uint64(len(body)) != length:
		return nil, 0, fmt.Errorf("%w: %d bytes, the header says %d", ErrDamaged, len(body), length)
	}
	if sum, want := crc32.Checksum(body, castagnoli()), binary.LittleEndian.Uint32(header[12:]); sum != want {
		return nil, 0, fmt.Errorf("%w: CRC32C %08x, want %08x", ErrDamaged, sum, want)
	}
	return decodeSnapshotBody(body)
}

func decodeSnapshotBody(body []byte) (*State, uint64, error) {
	var b snapshotBody
	if err := decodeStrict(body, &b); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if b.State == nil {
		return nil, 0, fmt.Errorf("%w: no state", ErrDamaged)
	}
	if err := b.State.check(); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return b.State, b.Index, nil
}

// castagnoli returns the CRC32C table, which the standard library builds once.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }
