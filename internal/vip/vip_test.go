package vip

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
)

var mac = net.HardwareAddr{2, 0, 0, 0, 0, 0x0a}

// What is sent, byte by byte, as RFC 826 and RFC 4861 have it.
func TestFrames(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")
	for _, tt := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"ARP request", arpFrame(v4, mac, arpRequest), "ffffffffffff 02000000000a 0806 0001 0800 06 04 0001 02000000000a c000020a 000000000000 c000020a"},
		{"ARP reply", arpFrame(v4, mac, arpReply), "ffffffffffff 02000000000a 0806 0001 0800 06 04 0002 02000000000a c000020a 02000000000a c000020a"},
		{"advertisement", advertisement(v6, mac), "333300000001 02000000000a 86dd 60000000 0020 3a ff 20010db8000000000000000000000010 ff020000000000000000000000000001" +
			"88 00 f903 20000000 20010db8000000000000000000000010 02 01 02000000000a"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(tt.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(tt.frame, want) {
			t.Errorf("%s is\n%x, want\n%x", tt.name, tt.frame, want)
		}
	}
}

// A frame with its checksum in place sums up to nothing.
func TestChecksum(t *testing.T) {
	f := advertisement(netip.MustParseAddr("fd77::ffff:1"), net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff})
	body := etherBytes + ipv6Bytes
	if left := checksum(f[body-32:body], f[body:]); left != 0 {
		t.Errorf("%04x is left", left)
	}
}

func TestParse(t *testing.T) {
	for _, good := range []string{"192.0.2.10/24", "2001:db8::10/64", "10.0.0.1/32"} {
		if a, err := Parse(good, "eth0"); err != nil || a.Prefix.String() != good {
			t.Errorf("%s: %v, %v", good, a, err)
		}
	}
	for _, bad := range []string{"", "192.0.2.10", "192.0.2.10/33", "host/24", "127.0.0.1/8", "fe80::1/64", "0.0.0.0/0", "224.0.0.1/4", "::ffff:192.0.2.10/96", "255.255.255.255/32"} {
		if a, err := Parse(bad, "eth0"); err == nil {
			t.Errorf("%q was taken for %v", bad, a)
		}
	}
	if _, err := Parse("192.0.2.10/24", ""); err == nil {
		t.Error("no interface is enough")
	}
}
