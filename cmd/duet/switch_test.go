package main

import (
	"context"
	"testing"

	"duet/internal/control"
)

func (f *fakeNode) Switch(_ context.Context, _ string, r *control.SwitchRequest) (*control.SwitchResult, error) {
	f.switched = r
	return &control.SwitchResult{Resource: "r0", From: "n1", To: "n2", Generation: 7, DrainMS: 3.14, CommitMS: 4, PromoteMS: 11.2, TotalMS: 18.34}, f.failure
}

func TestSwitch(t *testing.T) {
	node := healthy()
	dir := serve(t, node)
	if got := duet(t.Context(), dir, "switch", "r0", "--to", "n2"); got.code != 0 || *node.switched != (control.SwitchRequest{To: "n2"}) {
		t.Errorf("%+v, asked for %+v", got, node.switched)
	}
	node.failure = control.Errorf(control.CodeTimeout, "n2 did not take r0 over; n1 is Primary as before")
	if got := duet(t.Context(), dir, "switch", "r0"); got.code != control.ExitTimeout {
		t.Errorf("%+v", got)
	}
}

func TestRenderSwitch(t *testing.T) {
	want := "r0: n2 is Primary since generation 7, in place of n1\ndrain 3.1 ms, commit 4.0 ms, promote 11.2 ms, total 18.3 ms\n"
	got := renderSwitch(&control.SwitchResult{Resource: "r0", From: "n1", To: "n2", Generation: 7, DrainMS: 3.14, CommitMS: 4, PromoteMS: 11.2, TotalMS: 18.34})
	if got != want {
		t.Errorf("prints %q", got)
	}
	if got := renderSwitch(&control.SwitchResult{Resource: "r0", To: "n2", Generation: 7, Already: true}); got != "r0: n2 is Primary already, in generation 7\n" {
		t.Errorf("prints %q", got)
	}
}
