// Package vip moves an address that clients use, whichever node serves them: it is added to an interface or taken from it,
// and the neighbours are told where it is now, by gratuitous ARP or unsolicited neighbour advertisements.
package vip
