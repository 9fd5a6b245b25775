package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Member tells whether this node became a member of its cluster once. Then DIR/raft holds votes and promises, and one
// without them is not a first start's. Only that the file is there counts, its text is for people.
func (d Dir) Member() (bool, error) {
	_, err := os.Lstat(d.MemberFile())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("mark of a member: %w", err)
	}
	return true, nil
}

// MarkMember makes Member true, durably and for ever. Its time is when DIR/raft is that of a member, and before others
// may count on it.
func (d Dir) MarkMember(cluster string) error { return d.markMember(osFiles{}, cluster) }

func (d Dir) markMember(on files, cluster string) error {
	return writeFile(on, d.MemberFile(), fmt.Appendf(nil, "member of cluster %s\n", cluster), 0o600)
}
