//go:build !sabotage

package quorum

// The deliberate bugs of the sabotage build; here they are constants that are false and cost nothing.
const (
	sabotagePromoteOutsider = false // promote a replica that is not in sync
	sabotageIgnoreBoot      = false // promote a replica whose machine restarted
	sabotageKeepSet         = false // keep the whole in-sync set when the Primary has died
)
