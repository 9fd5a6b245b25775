package node

import (
	"os"
	"testing"

	"duet/internal/control"
	"duet/quorum"
)

// What a survivor's replicas say of what the record here lacks.
func TestResourcesOfASurvivor(t *testing.T) {
	s := newStoppedReplica(t)
	_, err := OpenLostQuorum(s.node.dir)
	refused(t, err, control.CodeRefused, "another daemon runs")
	s.node.stop()
	_, err = OpenLostQuorum(s.node.dir)
	refused(t, err, control.CodeRefused, "only voter already")
	state, err := quorum.ReadOffline(s.node.dir.Raft())
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := s.node.dir.LoadNode()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range resourcesOf(s.node.dir, cfg, state) {
		if !r.Holds || !r.IsInSync || r.Promised != 0 || r.Problem != "" {
			t.Errorf("%+v", r)
		}
	}
	promised := state.Resources["out"].Generation
	state.Resources["out"].Generation-- // as the record was before the last change
	if err := os.Remove(s.disk("in")); err != nil {
		t.Fatal(err)
	}
	got := resourcesOf(s.node.dir, cfg, state)
	if len(got) != 2 || got[0].Problem == "" || got[1].Promised != promised {
		t.Errorf("%+v, want generation %d", got, promised)
	}
}
