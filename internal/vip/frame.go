package vip

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Link-layer protocols and the sizes of what is sent.
const (
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	etherBytes = 14
	arpBytes   = 28
	ipv6Bytes  = 40
	advertised = 32 // a neighbour advertisement with the option of the link-layer address

	protocolICMPv6 = 58
)

// arpFrame is a gratuitous ARP, as a request or a reply: sender and target are the address.
//
//	 0      6     12     14                20   22     28     32       38     42
//	+------+------+------+------------------+----+------+------+--------+------+
//	| ff.. | mac  | 0806 | 1, 0x0800, 6, 4  | op | mac  | addr | target | addr |
//	+------+------+------+------------------+----+------+------+--------+------+
func arpFrame(address netip.Addr, mac net.HardwareAddr, operation uint16) []byte {
	f := make([]byte, 0, etherBytes+arpBytes)
	f = appendEther(f, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, etherARP)
	f = append(f, 0, 1, 8, 0, 6, 4)
	f = binary.BigEndian.AppendUint16(f, operation)
	f = append(append(f, mac...), address.AsSlice()...)
	target := net.HardwareAddr{0, 0, 0, 0, 0, 0} // of a request it is what is asked for
	if operation == arpReply {
		target = mac
	}
	return append(append(f, target...), address.AsSlice()...)
}

// The two forms of ARP. Some neighbours believe only one of them.
const (
	arpRequest = 1
	arpReply   = 2
)

// advertisement is an unsolicited neighbour advertisement to all nodes of the link, which overrides what they know.
//
//	 0     14                              54    55   56     58           62        78     80    86
//	+-----+-------------------------------+-----+----+------+------------+---------+------+-----+
//	| eth | IPv6: 32 bytes, ICMPv6, 255   | 136 | 0  | csum | 0x20000000 | address | 2, 1 | mac |
//	+-----+-------------------------------+-----+----+------+------------+---------+------+-----+
func advertisement(address netip.Addr, mac net.HardwareAddr) []byte {
	all := netip.MustParseAddr("ff02::1")
	f := make([]byte, 0, etherBytes+ipv6Bytes+advertised)
	f = appendEther(f, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, etherIPv6)
	f = append(f, 0x60, 0, 0, 0, 0, advertised, protocolICMPv6, 255)
	f = append(append(f, address.AsSlice()...), all.AsSlice()...)
	body := len(f)
	f = append(f, 136, 0, 0, 0, 0x20, 0, 0, 0) // flags: override, and neither router nor solicited
	f = append(append(f, address.AsSlice()...), 2, 1)
	f = append(f, mac...)
	binary.BigEndian.PutUint16(f[body+2:], checksum(f[body-32:body], f[body:]))
	return f
}

func appendEther(f []byte, to, from net.HardwareAddr, kind uint16) []byte {
	return binary.BigEndian.AppendUint16(append(append(f, to...), from...), kind)
}

// checksum is ICMPv6's: of the pseudo header (both addresses, the length, the protocol) and the message, whose own is 0.
func checksum(addresses, message []byte) uint16 {
	sum := uint32(len(message)) + protocolICMPv6
	for _, part := range [][]byte{addresses, message} {
		for i := 0; i < len(part); i += 2 { // both are even
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
