//go:build !sabotage

package replication

// The deliberate bugs of the sabotage build; here they are constants that are false and cost nothing.
const (
	sabotageAckEarly           = false // acknowledge without the Secondary
	sabotageAckBeforeCommit    = false // go on without a lost peer before its removal is committed
	sabotageAddEarly           = false // add a resync target before what it got is durable
	sabotageBelieveSecondFlush = false // take a failed flush for a good one
	sabotageClearEarly         = false // clear a bit before the target's disk has the block for good
	sabotageForgetLog          = false // make no bits of what is not stable when the configuration changes
	sabotageNoLeaseWait        = false // be promoted while a lease may be out
	sabotageNoOutsideBits      = false // set no bits towards replicas that do not get a write
	sabotageReadWithoutLease   = false // answer reads without a lease
	sabotageSkipActivityLog    = false // write to extents that the log does not have
	sabotageSkipLocalFlush     = false // leave the Primary's own disk out of a flush
	sabotageSkipPeerFlush      = false // leave the Secondary's disk out of a flush
	sabotageStayConsistent     = false // do not mark a resync target Inconsistent
	sabotageTrustOldBitmap     = false // believe, as a new Primary, to know every block that a peer lacks
	sabotageForgetPromise      = false // keep a promise in memory only
	sabotageOneSidedBits       = false // resync without the target's own bits
	sabotagePromoteOutsider    = false // promote a replica that is not in sync
	sabotageUnlockedResync     = false // read for a resync while the application writes
)
