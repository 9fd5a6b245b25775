//go:build race

package replication

// byteStride is larger here: the race detector makes that test many times slower. It meets every bit and all parts of a block.
const byteStride = 37

// strikeStride: of the frames that a resync is interrupted at, each run takes one in three, and others than the run before.
const strikeStride = 3
