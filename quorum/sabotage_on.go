//go:build sabotage

package quorum

import "os"

// Deliberate bugs, only in binaries built with the tag sabotage: tests show that the checks find them.
var (
	sabotagePromoteOutsider = os.Getenv("DUET_SABOTAGE") == "promote-outsider"
	sabotageIgnoreBoot      = os.Getenv("DUET_SABOTAGE") == "ignore-boot"
	sabotageKeepSet         = os.Getenv("DUET_SABOTAGE") == "keep-set"
)
