package config

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
)

// maxIncarnationBytes is more than the file ever has.
const maxIncarnationBytes = 128

// ErrIncarnation is returned when the counter of starts can't be read. It is
// never guessed: a counter that went back would let this node act with the
// authority of an earlier start.
var ErrIncarnation = errors.New("the incarnation file is damaged; remove this node from the cluster and join again")

// Incarnation returns the number of the latest start, 0 before the first.
func (d Dir) Incarnation() (uint64, error) {
	content, err := readBounded(d.IncarnationFile(), maxIncarnationBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("incarnation: %w", err)
	}
	value, err := parseIncarnation(content)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", d.IncarnationFile(), err)
	}
	return value, nil
}

// BumpIncarnation counts a start: it returns a number that this directory never
// returned before. The number is on stable storage when it is returned. Only the
// holder of the directory's lock may call it, before any contact with others.
func (d Dir) BumpIncarnation() (uint64, error) { return d.bumpIncarnation(osFiles{}) }

func (d Dir) bumpIncarnation(on files) (uint64, error) {
	value, err := d.Incarnation()
	if err != nil {
		return 0, err
	}
	if value == math.MaxUint64 {
		return 0, fmt.Errorf("%s: %w", d.IncarnationFile(), ErrIncarnation)
	}
	return value + 1, d.writeIncarnation(on, value+1)
}

// RaiseIncarnation makes sure that the next start gets a number above floor. A
// node that joins again under its old name needs it: the cluster remembers the
// number that the old directory had.
func (d Dir) RaiseIncarnation(floor uint64) error { return d.raiseIncarnation(osFiles{}, floor) }

func (d Dir) raiseIncarnation(on files, floor uint64) error {
	value, err := d.Incarnation()
	if err != nil {
		return err
	}
	if value >= floor {
		return nil
	}
	return d.writeIncarnation(on, floor)
}

func (d Dir) writeIncarnation(on files, value uint64) error {
	return writeFile(on, d.IncarnationFile(), formatIncarnation(value), 0o600)
}

// formatIncarnation is the one line of the file:
//
//	incarnation 42 crc32c 89f14694
//
// The checksum (Castagnoli) is that of the text before " crc32c".
func formatIncarnation(value uint64) []byte {
	text := fmt.Sprintf("incarnation %d", value)
	return fmt.Appendf(nil, "%s crc32c %08x\n", text, checksum(text))
}

// parseIncarnation accepts exactly what formatIncarnation writes.
func parseIncarnation(content []byte) (uint64, error) {
	var value uint64
	if _, err := fmt.Sscanf(string(content), "incarnation %d", &value); err != nil {
		return 0, ErrIncarnation
	}
	if string(formatIncarnation(value)) != string(content) {
		return 0, ErrIncarnation
	}
	return value, nil
}

func checksum(text string) uint32 {
	return crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli))
}
