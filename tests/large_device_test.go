package tests

import (
	"fmt"
	"testing"
	"time"

	"duet/tests/cluster"
)

// A 4 TiB device costs no more than what is written to it: attaching it, recovering from a crash and resyncing take
// seconds, and the daemons stay small.
func TestLargeDevice(t *testing.T) {
	const (
		size           = "4TiB"
		resyncLimit    = 20 * time.Second
		memoryLimit    = 300 << 20
		writesPerPlace = 1 << 20 // bytes
	)
	needs(t, "qemu-io")
	s := start(t)
	created := time.Now()
	s.create("r0", size)
	t.Logf("created and in sync after %v", time.Since(created).Round(time.Millisecond))
	a, b := s.Node("a"), s.Node("b")

	// Far apart: the first, some in between, and the very last bytes of the device.
	places := []string{"0", "1T", "2199023251456", "3T", "4398045462528"}
	s.writeAt(a, 0x21, writesPerPlace, places)
	s.kill(a)
	s.promote(b, "r0")
	s.writeAt(b, 0x22, writesPerPlace/2, places)

	returned := time.Now()
	s.restart(a)
	s.inSync("r0")
	elapsed := time.Since(returned)
	t.Logf("the crashed Primary is in sync %v after its start", elapsed.Round(time.Millisecond))
	if elapsed > resyncLimit {
		t.Errorf("the resync took %v", elapsed)
	}
	s.identical("r0")
	for _, n := range []*cluster.Node{a, b} {
		bytes, err := n.Process().MemoryBytes()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("memory of %s: %d MiB", n.Name, bytes>>20)
		if bytes > memoryLimit {
			t.Errorf("the daemon of %s uses %d MiB", n.Name, bytes>>20)
		}
	}
}

// writeAt writes a pattern at several places and reads it back.
func (s *scenario) writeAt(n *cluster.Node, pattern, length int, places []string) {
	s.t.Helper()
	argv := []string{"qemu-io", "-f", "raw"}
	for _, verb := range []string{"write", "read"} {
		for _, place := range places {
			argv = append(argv, "-c", fmt.Sprintf("%s -P %d %s %d", verb, pattern, place, length))
		}
	}
	run(s.t, append(argv, "-c", "flush", n.URI("r0"))...)
}
