//go:build !race

package bitmap

// crashSeeds is how many random runs the crash test explores.
const crashSeeds = 6
