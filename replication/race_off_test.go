//go:build !race

package replication

// byteStride is the distance of the bytes of metadata that are damaged one after the other.
const byteStride = 1
