package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// atOnce is how many announcements follow each other immediately: a neighbour may be busy.
const atOnce = 3

// LaterAnnouncements is when an address is announced again: a switch that has just lost a port may forget what it was told.
func LaterAnnouncements() []time.Duration {
	return []time.Duration{200 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second}
}

// Address is an address with its prefix on an interface.
type Address struct {
	Prefix    netip.Prefix // with all bits of the address
	Interface string
}

// Parse reads ADDRESS/PREFIX and the name of an interface.
func Parse(text, device string) (Address, error) {
	prefix, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return Address{}, fmt.Errorf("%q is no address with a prefix, such as 192.0.2.10/24: %w", text, err)
	case device == "":
		return Address{}, errors.New("the interface is missing")
	case !prefix.Addr().IsGlobalUnicast() || prefix.Addr().Is4In6():
		return Address{}, fmt.Errorf("%s is no address of a host that others can reach", prefix.Addr())
	}
	return Address{Prefix: prefix, Interface: device}, nil
}

// netlinkAddress is a as the kernel is told. A duplicate is not looked for: it would take a second, and nobody but the
// Primary may have it.
func (a Address) netlinkAddress() *netlink.Addr {
	addr := a.Prefix.Addr()
	out := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(a.Prefix.Bits(), addr.BitLen())}}
	if addr.Is6() {
		out.Flags = unix.IFA_F_NODAD
	}
	return out
}

func (a Address) link() (netlink.Link, error) {
	link, err := netlink.LinkByName(a.Interface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", a.Interface, err)
	}
	return link, nil
}

// Take adds the address, if it is not there, and announces it.
func Take(a Address) error {
	link, err := a.link()
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, a.netlinkAddress()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %s to %s: %w", a.Prefix, a.Interface, err)
	}
	return Announce(a)
}

// Drop removes the address, if it is there.
func Drop(a Address) error {
	link, err := a.link()
	if err != nil {
		return err
	}
	if err := netlink.AddrDel(link, a.netlinkAddress()); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove %s from %s: %w", a.Prefix, a.Interface, err)
	}
	return nil
}

// Has tells whether the address is there.
func Has(a Address) (bool, error) {
	link, err := a.link()
	if err != nil {
		return false, err
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("addresses of %s: %w", a.Interface, err)
	}
	for _, have := range addresses {
		if ip, ok := netip.AddrFromSlice(have.IP); ok && ip.Unmap() == a.Prefix.Addr() {
			return true, nil
		}
	}
	return false, nil
}

// Announce tells the neighbours, several times at once, that the address is here.
func Announce(a Address) (err error) {
	link, err := a.link()
	if err != nil {
		return err
	}
	mac := link.Attrs().HardwareAddr
	if len(mac) != 6 {
		return nil // loopback, tunnels: nobody there asks for a link-layer address
	}
	frames := [][]byte{advertisement(a.Prefix.Addr(), mac)}
	protocol := uint16(etherIPv6)
	if a.Prefix.Addr().Is4() {
		frames = [][]byte{arpFrame(a.Prefix.Addr(), mac, arpRequest), arpFrame(a.Prefix.Addr(), mac, arpReply)}
		protocol = etherARP
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: nothing is received
	if err != nil {
		return fmt.Errorf("announce %s: %w", a.Prefix.Addr(), err)
	}
	defer func() { err = errors.Join(err, unix.Close(socket)) }()
	to := &unix.SockaddrLinklayer{Protocol: protocol<<8 | protocol>>8, Ifindex: link.Attrs().Index, Halen: 6}
	for range atOnce {
		for _, frame := range frames {
			copy(to.Addr[:], frame[:6])
			if err := unix.Sendto(socket, frame, 0, to); err != nil {
				return fmt.Errorf("announce %s on %s: %w", a.Prefix.Addr(), a.Interface, err)
			}
		}
	}
	return nil
}

// AnnounceLater announces the address again after each of these times, as long as it is there, until ctx ends.
func AnnounceLater(ctx context.Context, a Address, after []time.Duration) error {
	begin := time.Now()
	for _, at := range after {
		timer := time.NewTimer(time.Until(begin.Add(at)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		here, err := Has(a)
		if err != nil || !here {
			return err
		}
		if err := Announce(a); err != nil {
			return err
		}
	}
	return nil
}
