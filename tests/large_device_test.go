package tests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// largest is the size of the largest device, of those that are worth it, that a file of the temporary directory can hold.
func largest(t *testing.T) (name string, bytes int64) {
	t.Helper()
	path := filepath.Join(shared.dir, "largest")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(f.Close(), os.Remove(path)); err != nil {
			t.Error(err)
		}
	}()
	for _, gib := range []int64{16 << 10, 16<<10 - 1, 15 << 10} { // ext4 ends one block before 16 TiB
		if err = f.Truncate(gib << 30); err == nil {
			return fmt.Sprintf("%dGiB", gib), gib << 30
		}
	}
	missing(t, fmt.Sprintf("the temporary directory holds no file of 15 TiB: %v", err))
	return "", 0
}

// crashedResync is the resync of a Primary that was killed under load.
type crashedResync struct {
	took              time.Duration // from its start to in sync
	different, copied int64         // bytes
}

// killUnderLoad kills the Primary of a device under writes, all over it, and takes it back.
func killUnderLoad(t *testing.T, size string, sizeBytes int64) (result crashedResync) {
	const memoryLimit = 300 << 20
	s := start(t)
	s.create("r0", size)
	a, b := s.Node("a"), s.Node("b")
	var places []string // in extents of their own, which are full of data
	for i := range int64(8) {
		places = append(places, fmt.Sprint(sizeBytes/8*i))
	}
	s.writeAt(a, 0x21, 4<<20, places)
	r := newRecorder(uint64(sizeBytes/2+4<<20)/4096, 1024)
	l := r.begin(t, a.URI("r0"))
	l.waitWrites(t, 500)
	s.kill(a)
	<-l.done
	s.promote(b, "r0")
	s.writeAt(b, 0x22, 8192, places)
	l = r.begin(t, b.URI("r0"))
	l.waitWrites(t, 300)
	err := l.end()
	if err != nil {
		t.Fatal(err)
	}
	if result.different, err = differentBytes(s.Disk("a", "r0"), s.Disk("b", "r0")); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.restart(a)
	s.inSync("r0")
	result.took = time.Since(began)
	result.copied = int64(s.until(b, "r0", "a session with a", func(r *cluster.Resource) error {
		if len(r.Connections) != 1 || len(r.Connections[0].PeerDevices) != 1 {
			return errors.New("there is none")
		}
		return nil
	}).Connections[0].PeerDevices[0].SentKiB) << 10
	r.verify(t, b.URI("r0"))
	s.identical("r0")
	for _, n := range []*cluster.Node{a, b} {
		bytes, err := n.Process().MemoryBytes()
		if err != nil {
			t.Fatal(err)
		}
		if bytes > memoryLimit {
			t.Errorf("the daemon of %s uses %d MiB", n.Name, bytes>>20)
		}
	}
	return result
}

// A Primary killed under writes gets the blocks that differ, not the extents of its activity log, and how long that takes
// has nothing to do with the size of the device.
func TestResyncAfterACrashDoesNotDependOnTheSize(t *testing.T) {
	needs(t, "qemu-io")
	size, bytes := largest(t)
	small := killUnderLoad(t, "4GiB", 4<<30)
	large := killUnderLoad(t, size, bytes)
	for size, r := range map[string]crashedResync{"4GiB": small, size: large} {
		t.Logf("%s: in sync %v after its start; %d KiB differed, %d KiB were sent", size, r.took.Round(time.Millisecond), r.different>>10, r.copied>>10)
		if r.different == 0 || r.copied == 0 || r.copied > r.different+64<<10 { // less, where it was compressed
			t.Errorf("%s: %d KiB were sent for %d KiB that differ", size, r.copied>>10, r.different>>10)
		}
	}
	if large.took > 3*small.took+2*time.Second {
		t.Errorf("%s took %v, 4GiB %v", size, large.took, small.took)
	}
}
