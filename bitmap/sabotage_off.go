//go:build !sabotage

package bitmap

// The deliberate bugs of the sabotage build; here they are constants that are false and cost nothing.
const (
	sabotageEvictUnsaved = false // let an extent leave the log whose bits are not on disk
	sabotageSkipLogSync  = false // let writes go before the log is durable
)
