package main

import (
	"strings"
	"testing"

	"duet/internal/config"
	"duet/internal/control"
)

func TestLossIsShown(t *testing.T) {
	golden(t, "loss", renderLoss(&control.QuorumLoss{Cluster: "c1", Node: "n2", GivenUp: []string{"n1", "n3"}, Index: 28, Term: 4,
		Resources: []control.LossOfResource{
			{Name: "db", Generation: 7, Primary: "n1", InSync: []string{"n1", "n2"}, Holds: true, IsInSync: true},
			{Name: "log", Generation: 9, Primary: "n1", InSync: []string{"n1", "n2"}, Holds: true, IsInSync: true, Promised: 11},
			{Name: "old", Generation: 9, InSync: []string{"n2"}, Holds: true, IsInSync: true, Problem: "no such file"},
			{Name: "vm", Generation: 12, InSync: []string{"n1"}, Holds: true},
			{Name: "www", Generation: 3, Primary: "n3", InSync: []string{"n3"}},
		}}))
}

// Only the id of the cluster, typed, goes on.
func TestConfirmationNamesTheCluster(t *testing.T) {
	for typed, goesOn := range map[string]bool{"c1\n": true, " c1 \n": true, "n2\n": false, "yes\n": false, "": false} {
		var asked strings.Builder
		p := &program{stdin: strings.NewReader(typed), stderr: &asked, asks: true}
		if err := p.confirmBy("text\n", "id of the cluster", "c1"); (err == nil) != goesOn || !strings.Contains(asked.String(), "Type the id of the cluster") {
			t.Errorf("%q: %v, asked %q", typed, err, asked.String())
		}
	}
}

func TestRecoverRefuses(t *testing.T) {
	empty := shortDir(t)
	if got := duet(t.Context(), empty, "quorum", "recover", "--yes"); got.code == 0 {
		t.Errorf("no node: %+v", got)
	}
	founder := shortDir(t)
	if got := duet(t.Context(), founder+"/n", "init", "--name", "n1", "--listen", "127.0.0.1:7601", "--nbd", "127.0.0.1:7602", "--insecure"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if got := duet(t.Context(), founder+"/n", "quorum", "recover", "--yes"); got.code != control.ExitFailed || !strings.Contains(got.stderr, "never a member") {
		t.Errorf("never run: %+v", got)
	}
	if err := config.Dir(founder + "/n").MarkMember("c1"); err != nil {
		t.Fatal(err)
	}
	if got := duet(t.Context(), founder+"/n", "quorum", "recover", "--yes"); got.code != control.ExitFailed || !strings.Contains(got.stderr, "log.db") {
		t.Errorf("without a store: %+v", got)
	}
}
