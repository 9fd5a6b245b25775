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

// check returns the error that the specification demands for a request, with the reason in words, or zero if it may be
// carried out. It is the only place where requests are judged, and it comes before any effect.
func (t terms) check(r wire.Request) (wire.Errno, string) {
	if int(r.Command) >= len(rules) || !rules[r.Command].known {
		return wire.EINVAL, "unknown command"
	}
	rule := &rules[r.Command]
	switch {
	case r.Flags&^rule.flags != 0:
		return wire.EINVAL, "a flag that this command does not have"
	case r.Flags&wire.FlagDF != 0 && !t.structured:
		return wire.EINVAL, "DF needs structured replies"
	case !rule.ranged && (r.Offset != 0 || r.Length != 0):
		return wire.EINVAL, "this command has neither offset nor length"
	case rule.writes && t.readOnly:
		return wire.EPERM, "the export is read-only"
	case r.Command == wire.CmdBlockStatus && !t.allocation:
		return wire.EINVAL, "no metadata context was selected"
	case r.Command == wire.CmdBlockStatus && r.Length == 0:
		return wire.EINVAL, "the range is empty"
	case rule.ranged && (r.Offset > t.sizeBytes || uint64(r.Length) > t.sizeBytes-r.Offset):
		return rule.beyondEnd, "the range ends beyond the end of the device"
	case rule.payload && r.Length > wire.MaxPayloadBytes && r.Flags&wire.FlagDF != 0:
		return wire.EOVERFLOW, "more than can be sent in one piece"
	case rule.payload && r.Length > wire.MaxPayloadBytes:
		return wire.EINVAL, "more than the maximum size of a request"
	}
	return 0, ""
}
