//go:build sabotage

package replication

import "os"

// Deliberate bugs, only in binaries built with the tag sabotage: tests show that the checks find them.
var (
	sabotageAckEarly        = os.Getenv("DUET_SABOTAGE") == "ack-early"
	sabotageSkipPeerFlush   = os.Getenv("DUET_SABOTAGE") == "skip-peer-flush"
	sabotageSkipActivityLog = os.Getenv("DUET_SABOTAGE") == "skip-activity-log"
)
