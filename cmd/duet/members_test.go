package main

import (
	"context"
	"strings"
	"testing"

	"duet/internal/control"
)

func (f *fakeNode) NodeRemove(_ context.Context, r *control.NodeRemoveRequest) (*control.NodeRemoval, error) {
	return &control.NodeRemoval{Node: r.Node, Voters: []string{"a", "b"}, Warnings: []string{"two voters"}}, f.failure
}

func (f *fakeNode) ReplicaAdd(_ context.Context, _ string, r *control.ReplicaAddRequest) (*control.ResourceRecord, error) {
	record := testRecord()
	record.Replicas = append(record.Replicas, control.ReplicaRecord{Node: r.Node, Path: r.Path, Metadata: r.Metadata})
	return &record, f.failure
}

func (f *fakeNode) ResourceEdit(_ context.Context, _ string, r *control.ResourceEditRequest) (*control.ResourceRecord, error) {
	f.edited = r
	record := testRecord()
	return &record, f.failure
}

func TestMembersChange(t *testing.T) {
	node := &fakeNode{}
	dir := serve(t, node)
	for _, tt := range []struct{ arguments, want string }{
		{"node remove c --with-replicas", "c is removed; voters: a, b\nnote: two voters\n"},
		{"resource add-replica r0 --on c=/dev/sdz", "c (not in sync)"},
	} {
		if out := duet(t.Context(), dir, strings.Fields(tt.arguments)...); out.code != 0 || !strings.Contains(out.stdout, tt.want) {
			t.Errorf("%s: %d %q %q", tt.arguments, out.code, out.stdout, out.stderr)
		}
	}
	for _, tt := range []struct{ arguments, why string }{
		{"node remove", "NODE"},
		{"resource add-replica r0", "--on NODE=PATH is missing"},
		{"resource add-replica r0 --on a=/x --on b=/y", "one replica at a time"},
		{"resource add-replica r0 --on a=/x --metadata m", "must be absolute"},
		{"resource remove-replica r0", "NODE"},
		{"resource edit r0", "what is to be changed"},
		{"resource edit r0 --promotion maybe", "auto or manual"},
		{"resource edit r0 --disk-timeout soon", "write a time"},
		{"resource edit r0 --disk-timeout 1ms", "not possible"},
	} {
		if out := duet(t.Context(), dir, strings.Fields(tt.arguments)...); out.code != control.ExitUsage || !strings.Contains(out.stderr, tt.why) {
			t.Errorf("%s: %d %q, want %q", tt.arguments, out.code, out.stderr, tt.why)
		}
	}
	if out := duet(t.Context(), dir, "resource", "edit", "r0", "--preferred", "none", "--disk-timeout", "off"); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	if e := node.edited; e == nil || e.Promotion != nil || e.Preferred == nil || *e.Preferred != "" || e.DiskTimeout == nil || *e.DiskTimeout >= 0 {
		t.Errorf("asked for %+v", node.edited)
	}
}
