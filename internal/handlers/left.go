package handlers

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// markPrefix begins the names of the marks; the rest is the resource.
const markPrefix = ".promoted."

// mark notes that after-promote was run: a daemon that is killed leaves what the handlers set up. It need not outlive the
// machine, nor does what it tells of.
func (e *Engine) mark(resource string) {
	if err := os.WriteFile(e.markPath(resource), nil, 0o600); err != nil {
		e.cfg.Logger.Warn("a mount or address that a killed daemon leaves would not be cleared at its next start", "resource", resource, "error", err)
	}
}

func (e *Engine) unmark(resource string) {
	if err := os.Remove(e.markPath(resource)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.cfg.Logger.Warn("handlers", "resource", resource, "error", err)
	}
}

func (e *Engine) markPath(resource string) string {
	return filepath.Join(e.cfg.Dir, markPrefix+resource)
}

// Left lists the resources whose handlers ran after a promotion and not after the end of the role, in an earlier run.
func (e *Engine) Left() ([]string, error) {
	entries, err := os.ReadDir(e.cfg.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var resources []string
	for _, entry := range entries {
		if resource, ok := strings.CutPrefix(entry.Name(), markPrefix); ok {
			resources = append(resources, resource)
		}
	}
	return resources, nil
}
