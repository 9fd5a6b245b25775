package config

import (
	"fmt"
	"os"
	"strings"
)

// BootIDVariable names an environment variable that replaces the kernel's boot
// id. It exists for tests, which let several nodes of one machine restart their
// "machines" independently. Outside tests it defeats the rule that a restarted
// machine loses its place among the in-sync replicas.
const BootIDVariable = "DUET_BOOT_ID"

const (
	bootIDFile     = "/proc/sys/kernel/random/boot_id"
	maxBootIDBytes = 64
)

// BootID returns a text that changes when the machine restarts, and only then.
func BootID() (string, error) {
	id := os.Getenv(BootIDVariable)
	source := "environment variable " + BootIDVariable
	if id == "" {
		// The size of files in /proc is 0, so that the read itself is what is
		// bounded here: the kernel gives 37 bytes.
		content, err := os.ReadFile(bootIDFile)
		if err != nil {
			return "", fmt.Errorf("boot id: %w", err)
		}
		id, source = strings.TrimSpace(string(content)), bootIDFile
	}
	if id == "" || len(id) > maxBootIDBytes {
		return "", fmt.Errorf("boot id: %s holds %d characters; 1 to %d are expected", source, len(id), maxBootIDBytes)
	}
	return id, nil
}
