package nbd

import "duet/nbd/internal/wire"

// CommandCounters count the requests of one command that have been answered.
type CommandCounters struct {
	Requests uint64 // all of them, the failed ones too
	Errors   uint64
	Bytes    uint64 // of those without an error
}

// Counters count what clients asked for.
type Counters struct {
	Read, Write, Flush, Trim, Zero, Cache, BlockStatus CommandCounters
	// Unknown are requests of commands that do not exist here.
	Unknown CommandCounters
}

// Stats is a snapshot of what a server has done and is doing.
type Stats struct {
	Connections   int    // open now, including those that negotiate
	Negotiating   int    // not yet in transmission
	Accepted      uint64 // since the start
	Refused       uint64 // closed unserved, or while negotiating, because there were too many
	Stalled       uint64 // cut off because the client took no replies or owed a payload
	Revoked       uint64 // closed because their export was revoked
	InFlightBytes int64  // memory charged to requests at this moment
	Counters
}

// of returns the counters of a command.
func (c *Counters) of(command wire.Command) *CommandCounters {
	switch command {
	case wire.CmdRead:
		return &c.Read
	case wire.CmdWrite:
		return &c.Write
	case wire.CmdFlush:
		return &c.Flush
	case wire.CmdTrim:
		return &c.Trim
	case wire.CmdWriteZeroes:
		return &c.Zero
	case wire.CmdCache:
		return &c.Cache
	case wire.CmdBlockStatus:
		return &c.BlockStatus
	}
	return &c.Unknown
}

// counters returns a snapshot of what the connection has answered.
func (s *stream) counters() *Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := s.counts
	return &counts
}

// count counts one answered request.
func (c *Counters) count(r *request, errno wire.Errno) {
	counters := c.of(r.Command)
	counters.Requests++
	if errno != 0 {
		counters.Errors++
		return
	}
	counters.Bytes += uint64(r.Length)
}

// add adds another connection's counters.
func (c *Counters) add(other *Counters) {
	for _, command := range []wire.Command{wire.CmdRead, wire.CmdWrite, wire.CmdFlush, wire.CmdTrim,
		wire.CmdWriteZeroes, wire.CmdCache, wire.CmdBlockStatus, wire.CmdDisc /* stands for the unknown ones */} {
		sum, from := c.of(command), other.of(command)
		sum.Requests += from.Requests
		sum.Errors += from.Errors
		sum.Bytes += from.Bytes
	}
}
