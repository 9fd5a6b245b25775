package config

import (
	"fmt"
	"net"
	"net/netip"
)

// Advertised proposes the address at which the others reach a node that listens
// on listen: listen itself if it names a host, else the machine's first address
// that isn't loopback or link-local, IPv4 before IPv6. The operator should be
// told what was chosen.
func Advertised(listen string) (string, error) {
	if err := ValidateListen(listen); err != nil {
		return "", err
	}
	if ValidateDial(listen) == nil {
		return listen, nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("addresses of this machine: %w", err)
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("address %q: %w", listen, err)
	}
	ip, found := firstReachable(addresses)
	if !found {
		return "", fmt.Errorf("this machine has no address that others could reach; say which with --advertise")
	}
	return net.JoinHostPort(ip.String(), port), nil
}

// firstReachable is the choice that Advertised describes.
func firstReachable(addresses []net.Addr) (netip.Addr, bool) {
	var best netip.Addr
	for _, address := range addresses {
		prefix, err := netip.ParsePrefix(address.String())
		if err != nil || !prefix.Addr().IsGlobalUnicast() {
			continue
		}
		ip := prefix.Addr().Unmap()
		if !best.IsValid() || ip.Is4() && !best.Is4() {
			best = ip
		}
	}
	return best, best.IsValid()
}
