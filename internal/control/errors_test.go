package control

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestExitCode(t *testing.T) {
	tests := []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("something"), 1},
		{Errorf(CodeInternal, "x"), 1},
		{Errorf(CodeRefused, "x"), 1},
		{Errorf(CodeNotFound, "x"), 1},
		{Errorf(CodeForbidden, "x"), 1},
		{Errorf(CodeUsage, "x"), 2},
		{Errorf(CodeUnreachable, "x"), 3},
		{Errorf(CodeTimeout, "x"), 4},
		{context.DeadlineExceeded, 4},
		{context.Canceled, 1},
		{Errorf("of a newer version", "x"), 1},
		{fmt.Errorf("while doing: %w", Errorf(CodeUnreachable, "x").WithHint("y")), 3},
	}
	for _, tt := range tests {
		if got := ExitCode(tt.err); got != tt.want {
			t.Errorf("ExitCode(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestWithHint(t *testing.T) {
	plain := Errorf(CodeRefused, "no %s", "way")
	hinted := plain.WithHint("try %d", 2)
	if plain.Hint != "" || *hinted != (Error{CodeRefused, "no way", "try 2"}) {
		t.Errorf("%+v, %+v", *plain, *hinted)
	}
}
