//go:build race

package bitmap

// crashSeeds is small here: the race detector makes the crash test some twenty times slower, and there is no
// concurrency in it to find fault with.
const crashSeeds = 1
