//go:build race

package nbd

// raceEnabled says that the race detector is on, under which sync.Pool drops items at random.
const raceEnabled = true
