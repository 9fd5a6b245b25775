package main

import (
	"strings"
	"testing"
	"time"

	"duet/internal/control"
)

func TestSuspendIO(t *testing.T) {
	node := healthy()
	dir := serve(t, node)
	if got := duet(t.Context(), dir, "suspend-io", "r0", "--for", "90s", "--timeout", "2s"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	want := control.SuspendRequest{For: control.Duration(90 * time.Second), Timeout: control.Duration(2 * time.Second)}
	if node.suspended == nil || *node.suspended != want {
		t.Errorf("asked for %+v", node.suspended)
	}
	if got := duet(t.Context(), dir, "resume-io", "r0"); got.code != 0 || node.suspended != nil {
		t.Errorf("%+v, %+v", got, node.suspended)
	}
	for _, line := range []string{"suspend-io", "suspend-io r0 --for 0s", "suspend-io r0 --timeout -1s", "resume-io", "resume-io r0 r1"} {
		if got := duet(t.Context(), dir, strings.Fields(line)...); got.code != control.ExitUsage {
			t.Errorf("duet %s: %+v", line, got)
		}
	}
	node.failure = control.Errorf(control.CodeTimeout, "not everything under way for r0 ended in time: nothing is suspended")
	if got := duet(t.Context(), dir, "suspend-io", "r0"); got.code != control.ExitTimeout {
		t.Errorf("%+v", got)
	}
}
