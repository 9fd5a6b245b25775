//go:build race

package replication

// byteStride is larger here: the race detector makes that test many times slower. It meets every bit and all parts of a block.
const byteStride = 37
