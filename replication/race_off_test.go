//go:build !race

package replication

// byteStride is the distance of the bytes of metadata that are damaged one after the other.
const byteStride = 1

// strikeStride is the distance of the frames that a resync is interrupted at.
const strikeStride = 1
