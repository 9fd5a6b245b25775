package config

import (
	"net"
	"net/netip"
	"testing"
)

func TestAdvertisedKeepsWhatNamesAHost(t *testing.T) {
	for _, listen := range []string{"10.1.2.3:7600", "db1.example.org:7600", "[2001:db8::1]:7600"} {
		if got, err := Advertised(listen); err != nil || got != listen {
			t.Errorf("%q: %q, %v", listen, got, err)
		}
	}
	_, err := Advertised("7600")
	wantError(t, err, nil, "HOST:PORT")
}

func TestFirstReachable(t *testing.T) {
	cases := []struct {
		addresses []string
		want      string
	}{
		{nil, ""},
		{[]string{"127.0.0.1/8", "::1/128", "fe80::1/64", "169.254.1.1/16"}, ""},
		{[]string{"127.0.0.1/8", "2001:db8::1/64", "10.0.0.2/24", "10.0.0.3/24"}, "10.0.0.2"},
		{[]string{"fe80::1/64", "2001:db8::1/64"}, "2001:db8::1"},
	}
	for _, c := range cases {
		var addresses []net.Addr
		for _, text := range c.addresses {
			prefix := netip.MustParsePrefix(text)
			addresses = append(addresses, &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())})
		}
		if got, found := firstReachable(addresses); found != (c.want != "") || found && got.String() != c.want {
			t.Errorf("%v: %v, %v", c.addresses, got, found)
		}
	}
}
