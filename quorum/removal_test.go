package quorum

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

// A dead node is removed without a word of it, by whichever node is asked; when it comes back it is told.
func TestRemoveADeadNode(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.form()
		b.propose("a", pairResource())
		b.makeLeader("b")
		b.stop("b")
		err := b.nodes["w"].Remove(t.Context(), Removal{Node: "b", Reason: "burnt"})
		if !errors.Is(err, ErrStale) || !strings.Contains(err.Error(), "has a replica of r") {
			t.Errorf("with a replica left: %v", err)
		}
		b.do("remove b", func(ctx context.Context) error {
			return b.nodes["w"].Remove(ctx, Removal{Node: "b", WithReplicas: true, Reason: "burnt"})
		})
		s := b.nodes["w"].State()
		if _, known := s.Nodes["b"]; known || !slices.Equal(s.Resources["r"].InSync, []string{"a"}) {
			t.Errorf("record %+v", s)
		}
		if voters := b.nodes["w"].Status().Voters; len(voters) != 2 {
			t.Errorf("voters %+v", voters)
		}
		if err := b.nodes["w"].Remove(t.Context(), Removal{Node: "b"}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "not a node") {
			t.Errorf("removed again: %v", err)
		}
		sameStates(t, b, []string{"a", "w"})
	})
}

// The leader can be removed as well: leadership goes to another first.
func TestRemoveTheLeader(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.form()
		b.makeLeader("w")
		b.do("remove w", func(ctx context.Context) error { return b.nodes["a"].Remove(ctx, Removal{Node: "w"}) })
		if leader := b.leader("a", "b"); leader == "" || leader == "w" {
			t.Errorf("%q leads", leader)
		}
		sameStates(t, b, []string{"a", "b"})
	})
}

// A removal that leaves too few voters that answer is refused before anything is changed.
func TestRemovalKeepsTheMajority(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.form()
		b.makeLeader("a")
		b.stop("w")
		err := b.nodes["a"].Remove(t.Context(), Removal{Node: "b"})
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "the voters are a, w, 2 of them are a majority, and only a answers") {
			t.Errorf("got %v", err)
		}
		if s := b.nodes["a"].Status(); len(s.Voters) != 3 {
			t.Errorf("voters %+v", s.Voters)
		}
		if err := b.nodes["a"].Remove(t.Context(), Removal{Node: "a"}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "itself") {
			t.Errorf("a removes itself: %v", err)
		}
		b.do("remove w, which is down", func(ctx context.Context) error { return b.nodes["a"].Remove(ctx, Removal{Node: "w"}) })
	})
}

// What an interruption between its two steps left is finished by asking again; a refusal in the second gives the vote back.
func TestInterruptedRemovals(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		b.form()
		b.propose("a", pairResource())
		b.do("the first step alone", func(ctx context.Context) error { return b.nodes["a"].RemoveVoter(ctx, "w") })
		b.do("again", func(ctx context.Context) error { return b.nodes["a"].Remove(ctx, Removal{Node: "w"}) })
		if _, known := b.nodes["a"].State().Nodes["w"]; known {
			t.Error("w is in the record")
		}
		b.do("a node that only Raft knows", func(ctx context.Context) error {
			r := b.nodes[b.leader("a", "b")]
			return r.settle(ctx, r.raft.Load().AddNonvoter("w", "w", 0, 0))
		})
		b.do("its removal", func(ctx context.Context) error { return b.nodes["a"].Remove(ctx, Removal{Node: "w"}) })
		if _, left := b.nodes["a"].server("w"); left {
			t.Error("w has a place in the log")
		}
		r := b.nodes["a"].State().Resources["r"]
		b.propose("a", Promote{Resource: "r", Generation: r.Generation, Node: "b", Incarnation: b.nodes["a"].State().Nodes["b"].Incarnation})
		err := b.nodes["a"].forget(t.Context(), Removal{Node: "b", WithReplicas: true})
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "Primary") {
			t.Errorf("got %v", err)
		}
		if err := b.nodes["a"].Remove(t.Context(), Removal{Node: "b", WithReplicas: true}); !errors.Is(err, ErrRefused) {
			t.Errorf("got %v", err)
		}
		if v, found := b.nodes["a"].server("b"); !found || v.Suffrage.String() != "Voter" {
			t.Errorf("b is %+v", v)
		}
	})
}
