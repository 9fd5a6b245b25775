package node

import (
	"testing"

	"duet/quorum"
)

func TestMayPromote(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(r *quorum.Resource, f *promotionFacts)
		want   bool
	}{
		{"the Primary lives", func(*quorum.Resource, *promotionFacts) {}, false},
		{"the Primary is gone", func(_ *quorum.Resource, f *promotionFacts) { f.gone = true }, true},
		{"there is none", func(r *quorum.Resource, _ *promotionFacts) { r.Primary = "" }, true},
		{"it is this node", func(r *quorum.Resource, f *promotionFacts) { r.Primary, f.gone = "b", true }, false},
		{"not in sync", func(r *quorum.Resource, f *promotionFacts) { r.InSync, f.gone = []string{"a"}, true }, false},
		{"no quorum", func(_ *quorum.Resource, f *promotionFacts) { f.gone, f.quorum = true, false }, false},
		{"no disk", func(_ *quorum.Resource, f *promotionFacts) { f.gone, f.unusable = true, "it is Failed" }, false},
	} {
		r := &quorum.Resource{Primary: "a", InSync: []string{"a", "b"}}
		f := promotionFacts{node: "b", quorum: true}
		c.change(r, &f)
		if got := mayBecomePrimary(r, f); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
