package nbd

import "duet/nbd/internal/wire"

// rule is what the specification says about one command.
type rule struct {
	known     bool
	flags     wire.CommandFlags // may be set
	ranged    bool              // offset and length name a part of the device
	writes    bool              // refused on a read-only export
	payload   bool              // carries Length bytes in one direction or the other
	beyondEnd wire.Errno        // the answer to a range that ends after the device
}

// rules is indexed by command. FUA is legal everywhere once it is offered, whether or not it means anything.
var rules = [...]rule{
	wire.CmdRead: {known: true, flags: wire.FlagFUA | wire.FlagDF, ranged: true, payload: true,
		beyondEnd: wire.EINVAL},
	wire.CmdWrite: {known: true, flags: wire.FlagFUA, ranged: true, writes: true, payload: true,
		beyondEnd: wire.ENOSPC},
	wire.CmdFlush: {known: true, flags: wire.FlagFUA},
	wire.CmdTrim: {known: true, flags: wire.FlagFUA, ranged: true, writes: true,
		beyondEnd: wire.EINVAL},
	wire.CmdCache: {known: true, flags: wire.FlagFUA, ranged: true, beyondEnd: wire.EINVAL},
	wire.CmdWriteZeroes: {known: true, flags: wire.FlagFUA | wire.FlagNoHole | wire.FlagFastZero, ranged: true,
		writes: true, beyondEnd: wire.ENOSPC},
	wire.CmdBlockStatus: {known: true, flags: wire.FlagFUA | wire.FlagReqOne, ranged: true,
		beyondEnd: wire.EINVAL},
}

// terms is what a request is judged by: the device as it is, and what the client has negotiated.
type terms struct {
	sizeBytes  uint64
	readOnly   bool
	structured bool
	allocation bool // the context base:allocation was selected
}

// check returns the error that the specification demands for a request, or zero if it may be carried out. It is the
// only place where requests are judged, and it comes before any effect.
func (t terms) check(r wire.Request) wire.Errno {
	if int(r.Command) >= len(rules) || !rules[r.Command].known {
		return wire.EINVAL
	}
	rule := &rules[r.Command]
	switch {
	case r.Flags&^rule.flags != 0:
		return wire.EINVAL
	case r.Flags&wire.FlagDF != 0 && !t.structured:
		return wire.EINVAL
	case !rule.ranged && (r.Offset != 0 || r.Length != 0):
		return wire.EINVAL
	case rule.writes && t.readOnly:
		return wire.EPERM
	case r.Command == wire.CmdBlockStatus && (!t.allocation || r.Length == 0):
		return wire.EINVAL
	case rule.ranged && (r.Offset > t.sizeBytes || uint64(r.Length) > t.sizeBytes-r.Offset):
		return rule.beyondEnd
	case rule.payload && r.Length > wire.MaxPayloadBytes && r.Flags&wire.FlagDF != 0:
		return wire.EOVERFLOW
	case rule.payload && r.Length > wire.MaxPayloadBytes:
		return wire.EINVAL
	}
	return 0
}

// reason says in words what check found, for clients that can be told.
func (t terms) reason(r wire.Request, errno wire.Errno) string {
	switch {
	case errno == 0:
		return ""
	case errno == wire.EPERM:
		return "the export is read-only"
	case errno == wire.EOVERFLOW, errno == wire.EINVAL && r.Length > wire.MaxPayloadBytes:
		return "the request is too large or invalid"
	case errno == wire.ENOSPC:
		return "the range ends after the device"
	}
	return "the request is invalid"
}
