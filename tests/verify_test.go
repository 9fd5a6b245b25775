package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"duet/tests/cluster"
)

// verified is what tests read of `duet verify --json`.
type verified struct {
	State string `json:"state"`
	Peers []struct {
		Name         string `json:"name"`
		DifferentKiB uint64 `json:"different-KiB"`
		Repaired     bool   `json:"repaired"`
		Ranges       []struct {
			Offset uint64 `json:"offset"`
			Length uint64 `json:"length"`
		} `json:"ranges"`
	} `json:"peers"`
}

// verify runs the command on the Primary, which must end with this exit status.
func (s *scenario) verify(n *cluster.Node, exitCode int, arguments ...string) verified {
	s.t.Helper()
	result, err := n.Command(s.t.Context(), append([]string{"verify", "r0", "--json"}, arguments...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	if result.ExitCode != exitCode {
		s.t.Fatalf("verify: exit status %d, want %d: %s %s", result.ExitCode, exitCode, result.Stdout, result.Stderr)
	}
	var v verified
	if err := json.Unmarshal([]byte(result.Stdout), &v); err != nil {
		s.t.Fatalf("%v: %q %s", err, result.Stdout, result.Stderr)
	}
	return v
}

// damage writes to a disk behind the back of the daemon that has it open.
func (s *scenario) damage(node string, offset int64, p []byte) {
	s.t.Helper()
	f, err := os.OpenFile(s.Disk(node, "r0"), os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = f.WriteAt(p, offset)
	if err := errors.Join(err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
}

// What somebody else changed on the Secondary's disk is found under load, named exactly, and with --repair made good by a
// resync of just that; then a verify finds nothing, and the replicas are identical.
func TestVerifyFindsAndRepairsDamage(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	primary, secondary := s.Node("a"), s.Node("b")
	r := newRecorder(1024, 2048) // 8 MiB in the middle
	l := r.begin(t, primary.URI("r0"))
	l.waitWrites(t, 200)
	if v := s.verify(primary, 0); v.State != "done" || len(v.Peers) != 1 || v.Peers[0].DifferentKiB != 0 {
		t.Fatalf("nothing was changed yet: %+v", v)
	}

	s.damage("b", 20<<20+5, []byte("not duet's"))
	s.damage("b", 40<<20-4096, make([]byte, 1)) // zeroes into a hole change nothing that can be read
	s.damage("b", 48<<20-1, []byte("xy"))       // over the border of two blocks, and of two ranges
	var found []string
	v := s.verify(primary, 1)
	for _, differs := range v.Peers[0].Ranges {
		found = append(found, fmt.Sprintf("%d+%d", differs.Offset, differs.Length))
	}
	if want := []string{fmt.Sprint(20<<20, "+4096"), fmt.Sprint(48<<20-4096, "+8192")}; !slices.Equal(found, want) {
		t.Fatalf("found %v, want %v", found, want)
	}
	s.inSyncAre(primary, "a", "b")

	if v := s.verify(primary, 0, "--repair"); !v.Peers[0].Repaired || v.Peers[0].DifferentKiB != 12 {
		t.Fatalf("%+v", v)
	}
	s.inSync("r0")
	if v := s.verify(primary, 0); v.Peers[0].DifferentKiB != 0 {
		t.Fatalf("after the repair: %+v", v)
	}
	l.waitWrites(t, 200)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	r.verify(t, primary.URI("r0"))
	s.identical("r0")

	result, err := secondary.Command(t.Context(), "verify", "r0")
	if err != nil || result.ExitCode != 1 {
		t.Errorf("on the Secondary: exit status %d, %v: %s", result.ExitCode, err, result.Stderr)
	}
}

// A verify that its peer does not live to see the end of says so, and the device goes on.
func TestVerifyWhosePeerIsKilled(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	primary := s.Node("a")
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 0x11 0 64M", "-c", "flush", primary.URI("r0"))
	s.duet(primary, "verify", "r0", "--rate", "1MiB", "--no-wait") // a minute
	s.until(primary, "r0", "the verify to run", func(r *cluster.Resource) error {
		if state := r.Peer("b").PeerDevices[0].ReplicationState; state != "VerifyS" {
			return fmt.Errorf("it is %s", state)
		}
		return nil
	})
	s.kill(s.Node("b"))
	s.inSyncAre(primary, "a")
	s.until(primary, "r0", "the end of the verify", func(r *cluster.Resource) error {
		if r.Verify == nil || r.Verify.State != "failed" || r.Verify.Reason == "" {
			return fmt.Errorf("it is %+v", r.Verify)
		}
		return nil
	})
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 0x22 0 64M", "-c", "flush", primary.URI("r0"))
	s.restart(s.Node("b"))
	s.inSync("r0")
	s.verify(primary, 0)
	s.identical("r0")
}
