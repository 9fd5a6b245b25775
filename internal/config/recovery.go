package config

import (
	"errors"
	"fmt"
	"io/fs"
)

// Recovery is how often the quorum of the cluster had been rebuilt when this node joined it; 0 where that never happened. What
// happened since is in DIR/raft.
func (d Dir) Recovery() (uint64, error) {
	content, err := readBounded(d.RecoveryFile(), maxIncarnationBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("recovery: %w", err)
	}
	var value uint64
	if _, err := fmt.Sscanf(string(content), "recovery %d", &value); err != nil || string(formatRecovery(value)) != string(content) {
		return 0, fmt.Errorf("%s is damaged; remove this node from the cluster and join again", d.RecoveryFile())
	}
	return value, nil
}

// saveRecovery notes the number, durably, unless it is 0.
func (d Dir) saveRecovery(on files, number uint64) error {
	if number == 0 {
		return nil
	}
	return writeFile(on, d.RecoveryFile(), formatRecovery(number), 0o600)
}

// formatRecovery is the one line of the file, with a checksum as that of the incarnation has:
//
//	recovery 1 crc32c 3b7f5b2c
func formatRecovery(value uint64) []byte {
	text := fmt.Sprintf("recovery %d", value)
	return fmt.Appendf(nil, "%s crc32c %08x\n", text, checksum(text))
}
