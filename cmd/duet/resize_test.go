package main

import (
	"strings"
	"testing"

	"duet/internal/control"
)

func TestResize(t *testing.T) {
	node := healthy()
	dir := serve(t, node)
	got := duet(t.Context(), dir, "resize", "r0", "--size", "200GiB", "--assume-clean")
	if want := (control.ResizeRequest{SizeBytes: 200 << 30, AssumeClean: true}); got.code != 0 || node.resized == nil || *node.resized != want {
		t.Errorf("%+v, asked for %+v", got, node.resized)
	}
	for _, line := range []string{"resize", "resize r0", "resize r0 --size", "resize r0 --size 0", "resize r0 --size 1GB", "resize r0 --size 4097", "resize r0 r1 --size 1GiB"} {
		if got := duet(t.Context(), dir, strings.Fields(line)...); got.code != control.ExitUsage {
			t.Errorf("duet %s: %+v", line, got)
		}
	}
}
