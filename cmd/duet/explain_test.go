package main

import (
	"testing"

	"duet/internal/control"
)

func testExplanation() *control.Explanation {
	return &control.Explanation{Resource: "r0", Node: "n1", Role: control.RolePrimary, Generation: 9, Primary: "n1", InSync: []string{"n1"},
		Peers: []control.PeerExplanation{
			{Name: "n2", Generation: 8, Result: "resync of what either bitmap has", Reason: "the bitmap is complete since\ngeneration 7",
				Facts: []control.Fact{{Of: "record", Name: "left in generation", Value: "7"}, {Of: "peer", Name: "disk", Value: "Outdated"}},
				Rules: []control.TriedRule{{Question: "has its disk another size?"}, {Question: "is its disk new?", Yes: true}}},
			{Name: "n3", Result: "not connected", Reason: "connection refused"},
		}}
}

func TestRenderExplanation(t *testing.T) {
	golden(t, "explain_primary", renderExplanation(testExplanation()))
	golden(t, "explain_secondary", renderExplanation(&control.Explanation{Resource: "r0", Node: "n2", Role: control.RoleSecondary, Generation: 9,
		InSync: []string{"n1"}, Standing: "left the in-sync set in generation 7", Source: "whoever becomes Primary of those in sync: n1"}))
}
