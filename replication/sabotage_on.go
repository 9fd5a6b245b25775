//go:build sabotage

package replication

import "os"

// Deliberate bugs, only in binaries built with the tag sabotage: tests show that the checks find them.
var (
	sabotageAckEarly           = os.Getenv("DUET_SABOTAGE") == "ack-early"
	sabotageAckBeforeCommit    = os.Getenv("DUET_SABOTAGE") == "ack-before-commit"
	sabotageAddEarly           = os.Getenv("DUET_SABOTAGE") == "add-early"
	sabotageBelieveSecondFlush = os.Getenv("DUET_SABOTAGE") == "believe-second-flush"
	sabotageClearEarly         = os.Getenv("DUET_SABOTAGE") == "clear-early"
	sabotageForgetLog          = os.Getenv("DUET_SABOTAGE") == "forget-log"
	sabotageNoLeaseWait        = os.Getenv("DUET_SABOTAGE") == "no-lease-wait"
	sabotageNoOutsideBits      = os.Getenv("DUET_SABOTAGE") == "no-outside-bits"
	sabotageReadWithoutLease   = os.Getenv("DUET_SABOTAGE") == "read-without-lease"
	sabotageSkipActivityLog    = os.Getenv("DUET_SABOTAGE") == "skip-activity-log"
	sabotageSkipLocalFlush     = os.Getenv("DUET_SABOTAGE") == "skip-local-flush"
	sabotageSkipPeerFlush      = os.Getenv("DUET_SABOTAGE") == "skip-peer-flush"
	sabotageStayConsistent     = os.Getenv("DUET_SABOTAGE") == "stay-consistent"
	sabotageTrustOldBitmap     = os.Getenv("DUET_SABOTAGE") == "trust-old-bitmap"
	sabotageForgetPromise      = os.Getenv("DUET_SABOTAGE") == "forget-promise"
	sabotageOneSidedBits       = os.Getenv("DUET_SABOTAGE") == "one-sided-bits"
	sabotagePromoteOutsider    = os.Getenv("DUET_SABOTAGE") == "promote-outsider"
	sabotageUnlockedResync     = os.Getenv("DUET_SABOTAGE") == "unlocked-resync"
)
