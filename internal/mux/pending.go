package mux

import (
	"net"
	"net/netip"
	"slices"
)

// handshake is an introduction under way.
type handshake struct {
	conn net.Conn
	host netip.Prefix // what counts as one host
}

// hostOf returns what a remote address counts as: its address, or the /64 of an
// IPv6 one, since a host has a whole network of those.
func hostOf(address net.Addr) netip.Prefix {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	return netip.PrefixFrom(ip, bits).Masked()
}

// pending is the set of introductions under way, oldest first. It is small, so
// that searching it is cheap beside a handshake.
type pending struct {
	limit int
	all   []*handshake
}

// add takes h in. When the set is full, it first takes out the oldest one of the
// host that has the most, h counted too, and returns it: its connection is to be
// closed. So a host that floods the port displaces itself.
func (p *pending) add(h *handshake) (victim *handshake) {
	if len(p.all) >= p.limit {
		victim = p.oldestOfBusiest(h.host)
		p.remove(victim)
	}
	p.all = append(p.all, h)
	return victim
}

// remove takes h out, and tells whether it was still in.
func (p *pending) remove(h *handshake) bool {
	i := slices.Index(p.all, h)
	if i >= 0 {
		p.all = slices.Delete(p.all, i, i+1)
	}
	return i >= 0
}

// oldestOfBusiest returns the oldest introduction of the host with the most; of
// several such hosts the one whose turn began first. The set isn't empty.
func (p *pending) oldestOfBusiest(newcomer netip.Prefix) *handshake {
	counts := map[netip.Prefix]int{newcomer: 1}
	for _, h := range p.all {
		counts[h.host]++
	}
	best := p.all[0]
	for _, h := range p.all {
		if counts[h.host] > counts[best.host] {
			best = h
		}
	}
	return best
}
