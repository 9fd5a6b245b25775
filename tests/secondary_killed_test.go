package tests

import (
	"fmt"
	"testing"
	"time"

	"duet/tests/cluster"
)

// While a Secondary is lost, writes wait only until the cluster has committed that it left the in-sync set; then they
// go on. When it returns, what changed meanwhile is copied and no more, and the replicas are identical.
func TestSecondaryLost(t *testing.T) {
	tests := []struct {
		name     string
		lose     func(*cluster.Node) error
		comeBack func(*scenario, *cluster.Node)
	}{
		{"killed", (*cluster.Node).Kill, func(s *scenario, n *cluster.Node) { s.restart(n) }},
		{"frozen", (*cluster.Node).Freeze, func(s *scenario, n *cluster.Node) {
			if err := n.Thaw(); err != nil {
				s.t.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t)
			s.create("r0", "128MiB")
			primary, secondary := s.Node("a"), s.Node("b")
			// The whole device has data, so that a full resync would show.
			run(t, "qemu-io", "-f", "raw", "-c", "write -P 0x11 0 128M", "-c", "flush", primary.URI("r0"))

			r := newRecorder(1024, 2048) // 8 MiB in the middle
			l := r.begin(t, primary.URI("r0"))
			l.waitWrites(t, 200)
			r.markPause()
			if err := tt.lose(secondary); err != nil {
				t.Fatal(err)
			}
			s.inSyncAre(primary, "a")
			l.waitWrites(t, 500)
			t.Logf("longest pause of the writes: %v", r.pause().Round(time.Millisecond))
			if pause := r.pause(); pause > 5*time.Second {
				t.Errorf("writes paused for %v", pause)
			}
			if err := l.end(); err != nil {
				t.Fatal(err)
			}

			outOfSync := s.until(primary, "r0", "out-of-sync blocks", func(r *cluster.Resource) error {
				if r.OutOfSyncKiB() == 0 {
					return fmt.Errorf("nothing is out of sync though %d writes were made", 500)
				}
				return nil
			}).OutOfSyncKiB()
			if limit := r.touched() * blockBytes >> 10; outOfSync > limit {
				t.Errorf("%d KiB are out of sync, %d KiB were written at most", outOfSync, limit)
			}
			t.Logf("%d KiB are out of sync", outOfSync)

			tt.comeBack(s, secondary)
			s.inSync("r0")
			r.verify(t, primary.URI("r0"))
			s.identical("r0")
		})
	}
}
