package failover

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// story is a history of one block in short: "w1 a 0-10" is an answered write of 1 by a, "w2 a 20-30?" one that was given up.
func story(t *testing.T, lines ...string) *history {
	t.Helper()
	h := newHistory(1)
	tell(t, h, lines...)
	return h
}

func tell(t *testing.T, h *history, lines ...string) {
	t.Helper()
	for _, line := range lines {
		var kind rune
		var node string
		var o operation
		var begin, end int
		if _, err := fmt.Sscanf(strings.TrimSuffix(line, "?"), "%c%d %s %d-%d", &kind, &o.value, &node, &begin, &end); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		o.write, o.answered = kind == 'w', !strings.HasSuffix(line, "?")
		o.server.node = node
		if before, process, ok := strings.Cut(node, "."); ok {
			o.server = server{before, len(process)}
		}
		o.begin, o.end = time.Duration(begin), time.Duration(end)
		h.add(o)
	}
}

func TestJudge(t *testing.T) {
	tests := []struct {
		name    string
		tenures string
		lines   []string
		wrong   string
	}{
		{"what was written is read", "a", []string{"w1 a 0-10", "r1 a 20-30"}, ""},
		{"a lost write", "ab", []string{"w1 a 0-10", "r0 b 20-30"}, "no order"},
		{"a stale read", "ab", []string{"w1 a 0-10", "w2 b 20-30", "r1 b 40-50"}, "no order"},
		{"given up, and not done", "ab", []string{"w1 a 0-10", "w2 a 11-12?", "r1 b 20-30"}, ""},
		{"given up, and done", "ab", []string{"w1 a 0-10", "w2 a 11-12?", "r2 b 20-30"}, ""},
		{"done, and taken back", "ab", []string{"w2 a 11-12?", "r2 b 20-30", "r0 b 40-50"}, "no order"},
		{"done after another has answered", "ab", []string{"w2 a 11-12?", "r0 b 20-30", "r2 b 40-50"}, "no order"},
		{"done late by the same process", "a", []string{"w2 a 11-12?", "r0 a 20-30", "r2 a 40-50"}, ""},
		{"done late by a process that is gone", "a", []string{"w2 a. 11-12?", "r0 a.. 20-30", "r2 a.. 40-50"}, "no order"},
		{"two acknowledge", "ab", []string{"w1 a 0-10", "w2 b 20-30", "w3 a 40-50", "r3 b 60-70"}, "a is not Primary"},
		{"two tenures", "aba", []string{"w1 a 0-10", "w2 b 20-30", "w3 a 40-50", "r3 a 60-70"}, ""},
		{"an answer that was long under way", "ab", []string{"w1 a 0-50", "w2 b 20-30", "r2 b 60-70"}, ""},
		{"who never was Primary", "a", []string{"r0 b 20-30"}, "b is not Primary"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := story(t, tt.lines...)
			err := h.judge(tenuresOf(tt.tenures))
			if tt.wrong == "" && err != nil || tt.wrong != "" && (err == nil || !strings.Contains(err.Error(), tt.wrong)) {
				t.Errorf("%v, want %q", err, tt.wrong)
			}
		})
	}
}

// What one judgement leaves open is known to the next.
func TestJudgeRemembers(t *testing.T) {
	tests := []struct {
		name  string
		lines []string
		wrong bool
	}{
		{"the content", []string{"r1 a 100-110"}, false},
		{"an unanswered write that is done", []string{"r2 a 100-110", "r2 b 120-130"}, false},
		{"one that is done too late", []string{"r1 b 100-110", "r2 b 120-130"}, true},
		{"a lost write", []string{"r0 a 100-110"}, true},
		{"an earlier tenure", []string{"r1 b 100-110", "r1 a 120-130"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := story(t, "w1 a 0-10", "w2 a 11-12?", "r1 a 20-30")
			if err := h.judge(tenuresOf("ab")); err != nil {
				t.Fatal(err)
			}
			tell(t, h, tt.lines...)
			if err := h.judge(tenuresOf("ab")); (err != nil) != tt.wrong {
				t.Errorf("%v", err)
			}
		})
	}
}

func tenuresOf(nodes string) (tenures []tenure) {
	for i, node := range nodes {
		tenures = append(tenures, tenure{string(node), uint64(i + 1)})
	}
	return tenures
}

func TestWatchSeesTheFirstAnswerOfAnother(t *testing.T) {
	h := newHistory(1)
	found := h.watch("a")
	late := h.now() + time.Hour
	h.add(operation{server: server{node: "b"}, write: true, answered: true, begin: 0, end: late}) // begun before
	h.add(operation{server: server{node: "a"}, write: true, answered: true, begin: late, end: late})
	h.add(operation{server: server{node: "b"}, answered: true, begin: late, end: late})
	h.add(operation{server: server{node: "b"}, write: true, begin: late, end: late})
	select {
	case o := <-found:
		t.Fatalf("%v", o)
	default:
	}
	h.add(operation{server: server{node: "b"}, write: true, answered: true, value: 7, begin: late, end: late})
	if o := <-found; o.value != 7 {
		t.Errorf("%v", o)
	}
}
