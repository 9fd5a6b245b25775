// Package nbdclient is a small NBD client: many requests in flight on one connection, an error for each request, and a
// clear word when the connection is lost. It exists for tests, demonstrations and checks, not as a block device.
//
// A Client has one goroutine, which receives replies and runs callbacks. Requests are sent by whoever starts them.
package nbdclient
