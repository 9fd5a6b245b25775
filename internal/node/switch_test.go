package node

import (
	"errors"
	"path/filepath"
	"testing"

	"duet/internal/config"
	"duet/internal/control"
	"duet/quorum"
)

func TestSuccessor(t *testing.T) {
	nodes := map[string]quorum.NodeRecord{"a": {Kind: quorum.Data, Incarnation: 1}, "b": {Kind: quorum.Data, Incarnation: 1},
		"c": {Kind: quorum.Data, Incarnation: 1}, "d": {Kind: quorum.Data, Incarnation: 1}, "w": {Kind: quorum.Witness, Incarnation: 1}}
	with := func(primary, preferred string, inSync ...string) *quorum.Resource {
		r := &quorum.Resource{Name: "r0", Primary: primary, Preferred: preferred, InSync: inSync,
			Replicas: []quorum.Replica{{Node: "a"}, {Node: "b"}, {Node: "c"}}}
		if primary != "" {
			r.PrimaryIncarnation = 1
		}
		return r
	}
	restarted := with("a", "a", "a", "b")
	restarted.PrimaryIncarnation = 0
	tests := []struct {
		name   string
		r      *quorum.Resource
		wanted string
		want   string
		code   control.Code
		says   string
	}{
		{"the only other one", with("a", "a", "a", "b"), "", "b", "", ""},
		{"back", with("b", "a", "a", "b"), "", "a", "", ""},
		{"the preferred of two", with("b", "a", "a", "b", "c"), "", "a", "", ""},
		{"one of two, neither preferred", with("a", "a", "a", "b", "c"), "", "", control.CodeRefused, "b and c can each be Primary of r0 next: which one?"},
		{"one of two, told", with("a", "a", "a", "b", "c"), "c", "c", "", ""},
		{"nobody else", with("a", "a", "a"), "", "", control.CodeRefused, "no replica of r0 but that of a"},
		{"no Primary", with("", "a", "a", "b"), "b", "", control.CodeRefused, "has no Primary"},
		{"the Primary has restarted", restarted, "b", "", control.CodeRefused, "has no Primary"},
		{"to the Primary", with("a", "a", "a", "b"), "a", "a", "", ""},
		{"to a stranger", with("a", "a", "a", "b"), "x", "", control.CodeNotFound, "no node x"},
		{"to the witness", with("a", "a", "a", "b"), "w", "", control.CodeRefused, "witness"},
		{"to a node without a replica", with("a", "a", "a", "b"), "d", "", control.CodeRefused, "no replica"},
		{"to one that is behind", with("a", "a", "a", "b"), "c", "", control.CodeRefused, "not in sync"},
		{"from a Primary without a disk", with("a", "a", "b"), "", "b", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := successor(&quorum.State{Nodes: nodes}, tt.r, tt.wanted)
			if tt.code == "" {
				if err != nil || got != tt.want {
					t.Errorf("%q, %v, want %q", got, err, tt.want)
				}
				return
			}
			refused(t, err, tt.code, tt.says)
		})
	}
}

// A switchover may be told on any node, the witness included; nobody leaves the set, and the promotion policy doesn't matter.
func TestSwitchFromAnyNode(t *testing.T) {
	a := found(t, "a")
	b := a.join("b", config.KindData)
	w := a.join("w", config.KindWitness)
	disks := t.TempDir()
	_, err := a.client.ResourceCreate(t.Context(), &control.ResourceCreateRequest{Name: "r0", SizeBytes: 8 << 20, Promotion: control.PromotionManual,
		Replicas: []control.Replica{{Node: "a", Path: filepath.Join(disks, "a")}, {Node: "b", Path: filepath.Join(disks, "b")}}})
	if err != nil {
		t.Fatal(err)
	}
	nodes := []*running{a, b, w}
	for i := range 7 {
		to := []string{"b", "a"}[i%2]
		result, err := nodes[i%3].client.Switch(t.Context(), "r0", &control.SwitchRequest{})
		if err != nil {
			t.Fatalf("switchover %d: %v", i, err)
		}
		if result.To != to || result.From == to || result.Already || result.TotalMS <= 0 {
			t.Errorf("%+v", result)
		}
		record, err := nodes[(i+1)%2].client.ResourceShow(t.Context(), "r0")
		if err != nil || len(record.InSync) != 2 {
			t.Fatalf("%+v, %v", record, err)
		}
	}
	again, err := w.client.Switch(t.Context(), "r0", &control.SwitchRequest{To: "b"})
	if err != nil || !again.Already {
		t.Errorf("to who is Primary: %+v, %v", again, err)
	}
	_, err = a.client.Switch(t.Context(), "r1", &control.SwitchRequest{})
	refused(t, err, control.CodeNotFound, "no resource r1")
	_, err = w.client.Switch(t.Context(), "r0", &control.SwitchRequest{To: "w"})
	refused(t, err, control.CodeRefused, "witness")
}

// If the target does not serve the role is taken back, and the command says so.
func TestSwitchIsTakenBack(t *testing.T) {
	a := found(t, "a")
	n := a.node(t)
	b := a.join("b", config.KindData)
	a.join("w", config.KindWitness)
	disks := t.TempDir()
	_, err := a.client.ResourceCreate(t.Context(), &control.ResourceCreateRequest{Name: "r0", SizeBytes: 8 << 20, Promotion: control.PromotionManual,
		Replicas: []control.Replica{{Node: "a", Path: filepath.Join(disks, "a")}, {Node: "b", Path: filepath.Join(disks, "b")}}})
	if err != nil {
		t.Fatal(err)
	}
	replica, err := n.replica("r0")
	if err != nil {
		t.Fatal(err)
	}
	generation := n.quorum.State().Resources["r0"].Generation
	incarnation := n.quorum.State().Nodes["b"].Incarnation
	over, err := replica.HandOver(t.Context(), "b", incarnation)
	if err != nil || over.Generation != generation+1 {
		t.Fatalf("%+v, %v", over, err)
	}
	b.stop()
	err = n.takeBack(replica, "b", "r0", errors.New("the connection ended"))
	refused(t, err, control.CodeRefused, "b did not take r0 over (the connection ended); a is Primary as before")
	status, err := a.client.Status(t.Context())
	if err != nil || len(status.Resources) != 1 || status.Resources[0].Role != control.RolePrimary {
		t.Errorf("%+v, %v", status, err)
	}
	if code := control.AsError(n.takeBack(replica, "b", "r0", control.Errorf(control.CodeTimeout, "no answer"))).Code; code != control.CodeTimeout {
		t.Errorf("after a time-out the code is %s", code)
	}
}
