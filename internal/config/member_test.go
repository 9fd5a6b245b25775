package config

import (
	"errors"
	"testing"

	"duet/internal/crash"
)

// A mark that was made is there after a loss of power, and nothing but the mark makes a member.
func TestCrashWhileMarkingMember(t *testing.T) {
	s := newSite(t)
	if err := s.dir.create(s); err != nil {
		t.Fatal(err)
	}
	if member, err := s.dir.Member(); err != nil || member {
		t.Fatalf("a new directory is a member's: %v, %v", member, err)
	}
	s.Mark("created")
	if err := s.dir.markMember(s, "0123456789abcdef"); err != nil {
		t.Fatal(err)
	}
	s.Mark("member")
	report, err := s.Explore(crash.DefaultBudget(), func(state *crash.State) error {
		return onDisk(state, func(d Dir) error {
			member, err := d.Member()
			if err == nil && state.Marked("member") && !member {
				err = errors.New("the mark is gone")
			}
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("explored %s", report)
}
