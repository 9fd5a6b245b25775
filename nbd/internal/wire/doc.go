// Package wire holds the numbers and the byte layouts of the NBD protocol, shared by the server and the client.
//
// It has no state and does no I/O. Names follow the specification (doc/proto.md of the NetworkBlockDevice/nbd
// project) without its NBD_ prefixes; what github.com/pojntfx/go-nbd/pkg/protocol already names is taken from there.
// All integers on the wire are big-endian.
package wire
