package node

import (
	"slices"
	"strings"
	"testing"

	"duet/internal/config"
	"duet/internal/control"
	"duet/quorum"
)

func TestJudgeVoters(t *testing.T) {
	voter := func(name string) control.VoterReport {
		return control.VoterReport{Name: name, Votes: true, Reachable: true}
	}
	well := func(index uint64) *control.VoterSelf { return &control.VoterSelf{State: "follower", LastIndex: index} }
	tests := []struct {
		name     string
		quorum   bool
		voters   []string
		answers  []*control.VoterSelf
		majority int
		canLose  int
	}{
		{"three", true, []string{"a", "b", "w"}, []*control.VoterSelf{well(9), well(9), well(7)}, 2, 1},
		{"one of three is lost", true, []string{"a", "b", "w"}, []*control.VoterSelf{well(9), well(9), nil}, 2, 0},
		{"one of three has a failed store", true, []string{"a", "b", "w"}, []*control.VoterSelf{well(9), well(9), {State: "failed", Problem: "disk"}}, 2, 0},
		{"two", true, []string{"a", "b"}, []*control.VoterSelf{well(9), well(9)}, 2, 0},
		{"one", true, []string{"a"}, []*control.VoterSelf{well(9)}, 1, 0},
		{"five", true, []string{"a", "b", "c", "d", "w"}, []*control.VoterSelf{well(9), well(9), well(9), well(9), well(9)}, 3, 2},
		{"no leader", false, []string{"a", "b", "w"}, []*control.VoterSelf{well(9), well(9), nil}, 2, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			report := &control.QuorumReport{HasQuorum: tt.quorum, Leader: "a"}
			for i, name := range tt.voters {
				v := voter(name)
				v.Reachable = tt.answers[i] != nil
				report.Voters = append(report.Voters, v)
			}
			judgeVoters(report, tt.answers)
			if report.Majority != tt.majority || report.CanLose != tt.canLose {
				t.Errorf("majority %d, can lose %d", report.Majority, report.CanLose)
			}
			if last := report.Voters[len(tt.voters)-1]; tt.name == "three" && (last.LagEntries == nil || *last.LagEntries != 2) {
				t.Errorf("the last voter is %+v", last)
			}
		})
	}
}

func TestBestLeader(t *testing.T) {
	st := &quorum.Status{Node: "a", Leader: "b"}
	for _, name := range []string{"a", "b", "c", "w"} {
		st.Voters = append(st.Voters, quorum.Voter{Node: name, Votes: true})
	}
	state := &quorum.State{Nodes: map[string]quorum.NodeRecord{"w": {Kind: quorum.Witness}}, Resources: map[string]*quorum.Resource{"r": {Primary: "a"}}}
	suspect := func(names ...string) quorum.Liveness {
		live := quorum.Liveness{Nodes: map[string]quorum.Suspicion{}}
		for _, name := range names {
			live.Nodes[name] = quorum.Suspicion{Suspected: true}
		}
		return live
	}
	for _, tt := range []struct {
		silent []string
		want   string
	}{{nil, "w"}, {[]string{"w"}, "c"}, {[]string{"w", "c"}, "a"}} {
		if got := bestLeader(st, state, suspect(tt.silent...)); got != tt.want {
			t.Errorf("without %v it is %q, want %q", tt.silent, got, tt.want)
		}
	}
	st.Voters = st.Voters[1:2]
	if got := bestLeader(st, state, suspect()); got != "" {
		t.Errorf("of nobody else it is %q", got)
	}
}

// Leadership goes to who is named, and whoever is asked tells the same of all voters.
func TestTransfer(t *testing.T) {
	a := found(t, "a")
	b := a.join("b", config.KindData)
	w := a.join("w", config.KindWitness)
	for _, to := range []string{"w", "b", "a"} {
		done, err := w.client.Transfer(t.Context(), &control.TransferRequest{To: to})
		if err != nil || done.To != to {
			t.Fatalf("to %s: %+v, %v", to, done, err)
		}
		report, err := b.client.QuorumReport(t.Context())
		if err != nil || len(report.Voters) != 3 || report.Majority != 2 {
			t.Fatalf("%+v, %v", report, err)
		}
		for _, v := range report.Voters {
			if !v.Reachable || !v.Votes || v.State == "" {
				t.Errorf("%+v", v)
			}
		}
	}
	_, err := a.client.Transfer(t.Context(), &control.TransferRequest{To: "x"})
	refused(t, err, control.CodeNotFound, "x is no voter")
}

func TestCreationSaysThatAWitnessIsMissing(t *testing.T) {
	node := quorum.NodeRecord{Kind: quorum.Data}
	c := &creation{request: &control.ResourceCreateRequest{}, fresh: true, replicas: []quorum.NewReplica{{Node: "a"}, {Node: "b"}}}
	two := &quorum.State{Nodes: map[string]quorum.NodeRecord{"a": node, "b": node}}
	said := strings.Join(c.warnings(two), "\n")
	for _, words := range []string{"no witness", "a and b", "writes on the other freeze until it is back", "duet join --witness"} {
		if !strings.Contains(said, words) {
			t.Errorf("says %q, want %q", said, words)
		}
	}
	three := &quorum.State{Nodes: map[string]quorum.NodeRecord{"a": node, "b": node, "w": {Kind: quorum.Witness}}}
	if said := c.warnings(three); slices.ContainsFunc(said, func(w string) bool { return strings.Contains(w, "witness") }) {
		t.Errorf("with a witness it says %q", said)
	}
}
