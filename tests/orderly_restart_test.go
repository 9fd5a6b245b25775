package tests

import (
	"testing"

	"duet/tests/cluster"
)

// A daemon that is stopped in good order and started again has nothing to resync, whichever role it had.
func TestOrderlyRestartResyncsNothing(t *testing.T) {
	s := start(t)
	s.create("r0", "64MiB")
	primary, secondary := s.Node("a"), s.Node("b")
	r := newRecorder(0, 16384)
	l := r.begin(t, primary.URI("r0"))
	l.waitWrites(t, 1000)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}

	t.Run("Secondary", func(t *testing.T) {
		s := &scenario{Cluster: s.Cluster, t: t, dir: s.dir}
		s.stop(secondary)
		s.inSyncAre(primary, "a")
		s.nothingOutOfSync(primary)
		s.restart(secondary)
		s.inSync("r0")
		s.nothingReceived(secondary)
	})
	t.Run("Primary", func(t *testing.T) {
		s := &scenario{Cluster: s.Cluster, t: t, dir: s.dir}
		s.stop(primary)
		s.restart(primary)
		s.promote(primary, "r0")
		s.inSync("r0")
		s.nothingReceived(secondary)
		s.nothingReceived(primary)
	})
	t.Run("all at once", func(t *testing.T) {
		s := &scenario{Cluster: s.Cluster, t: t, dir: s.dir}
		s.within(settleTimeout, s.StopAtOnce)
		for _, n := range s.Nodes {
			if err := n.Run(); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range s.Nodes {
			s.within(settleTimeout, n.WaitReady)
		}
		s.promote(secondary, "r0")
		s.inSync("r0")
		s.nothingReceived(primary)
		r.verify(t, secondary.URI("r0"))
	})
	s.identical("r0")
}

// nothingOutOfSync checks that the node knows of no difference to its peers.
func (s *scenario) nothingOutOfSync(n *cluster.Node) {
	s.t.Helper()
	r, err := n.Resource(s.t.Context(), "r0")
	if err != nil {
		s.t.Fatal(err)
	}
	if r.OutOfSyncKiB() != 0 {
		s.t.Errorf("%s: %d KiB are out of sync", n.Name, r.OutOfSyncKiB())
	}
}

// nothingReceived checks that no peer has sent data to the node since it runs.
func (s *scenario) nothingReceived(n *cluster.Node) {
	s.t.Helper()
	r, err := n.Resource(s.t.Context(), "r0")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, connection := range r.Connections {
		for _, device := range connection.PeerDevices {
			if device.ReceivedKiB != 0 {
				s.t.Errorf("%s received %d KiB from %s", n.Name, device.ReceivedKiB, connection.Name)
			}
		}
	}
}
