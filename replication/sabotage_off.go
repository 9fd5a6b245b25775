//go:build !sabotage

package replication

// The deliberate bugs of the sabotage build; here they are constants that are false and cost nothing.
const (
	sabotageAckEarly        = false
	sabotageSkipPeerFlush   = false
	sabotageSkipActivityLog = false
)
