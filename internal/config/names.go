package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// maxNameBytes keeps names usable as file names, host name labels and
// certificate names.
const maxNameBytes = 63

// maxHostBytes is the limit of a host name in the DNS.
const maxHostBytes = 253

// ValidateName checks the name of a node or a resource; what says which of them
// in the error: "node", "resource".
func ValidateName(what, name string) error {
	if name == "" {
		return fmt.Errorf("the %s has no name", what)
	}
	if len(name) > maxNameBytes {
		return fmt.Errorf("%s name %.20q... has %d characters; at most %d are allowed", what, name, len(name), maxNameBytes)
	}
	for i := range len(name) {
		if c := name[i]; !isLetterOrDigit(c) && (i == 0 || !strings.ContainsRune("._-", rune(c))) {
			return fmt.Errorf("%s name %q is not valid: use a-z, 0-9 and, not first, '.', '_' and '-'", what, name)
		}
	}
	return nil
}

func isLetterOrDigit(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// ValidateListen checks an address to listen on: HOST:PORT, :PORT for all
// addresses of the machine.
func ValidateListen(address string) error {
	_, err := hostOf(address)
	return err
}

// ValidateDial checks an address that others connect to: it must name a host.
func ValidateDial(address string) error {
	host, err := hostOf(address)
	if err != nil {
		return err
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return fmt.Errorf("address %q names no host that others could connect to", address)
	}
	return nil
}

// hostOf checks the syntax that both kinds of addresses share.
func hostOf(address string) (host string, err error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("address %q is not HOST:PORT", address)
	}
	number, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || number == 0 {
		return "", fmt.Errorf("address %q: port %q is not a number from 1 to 65535", address, portText)
	}
	if _, err := netip.ParseAddr(host); err != nil && !isHostName(host) {
		return "", fmt.Errorf("address %q: %q is neither an IP address nor a host name", address, host)
	}
	return host, nil
}

// isHostName accepts the empty name too: it means every address.
func isHostName(host string) bool {
	if len(host) > maxHostBytes || strings.HasPrefix(host, "-") {
		return false
	}
	for i := range len(host) {
		c := host[i]
		if !isLetterOrDigit(c) && (c < 'A' || c > 'Z') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
