// Package nbdtest has devices to try NBD servers on: one in memory and one on a file. They are as plain as a correct
// device can be, so they also show what a device has to do, and how fast the protocol alone is.
package nbdtest
