//go:build sabotage

package bitmap

import "os"

// Deliberate bugs, only in binaries built with the tag sabotage: tests show that the checks find them.
var (
	sabotageEvictUnsaved = os.Getenv("DUET_SABOTAGE") == "evict-unsaved"
	sabotageSkipLogSync  = os.Getenv("DUET_SABOTAGE") == "skip-log-sync"
)
