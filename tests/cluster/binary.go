package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// BuildOptions says how the program is built.
type BuildOptions struct {
	Race bool   // with the race detector, which makes the daemons some ten times slower
	Tags string // build tags, separated by commas
}

// Build compiles cmd/duet into directory and returns the path of the program.
func Build(ctx context.Context, directory string, options BuildOptions) (string, error) {
	path := filepath.Join(directory, "duet")
	arguments := []string{"build", "-buildvcs=false", "-o", path}
	if options.Race {
		arguments = append(arguments, "-race")
	}
	if options.Tags != "" {
		arguments = append(arguments, "-tags", options.Tags)
	}
	output, err := exec.CommandContext(ctx, "go", append(arguments, "duet/cmd/duet")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build duet: %w\n%s", err, output)
	}
	return path, nil
}
