package mux

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func prefix(text string) netip.Prefix { return hostOf(&net.TCPAddr{IP: net.ParseIP(text), Port: 1}) }

func TestHostOf(t *testing.T) {
	same := [][2]string{{"10.0.0.1", "::ffff:10.0.0.1"}, {"2001:db8::1", "2001:db8::ffff:1"}}
	for _, pair := range same {
		if prefix(pair[0]) != prefix(pair[1]) {
			t.Errorf("%s and %s count as two hosts", pair[0], pair[1])
		}
	}
	other := [][2]string{{"10.0.0.1", "10.0.0.2"}, {"2001:db8::1", "2001:db8:0:1::1"}}
	for _, pair := range other {
		if prefix(pair[0]) == prefix(pair[1]) {
			t.Errorf("%s and %s count as one host", pair[0], pair[1])
		}
	}
	if hostOf(&net.UnixAddr{}) != (netip.Prefix{}) {
		t.Error("a unix socket has a host")
	}
}

// TestPending adds hosts by a script, one letter each, into a set of four, and
// says which one gave way for the last.
func TestPending(t *testing.T) {
	cases := []struct {
		script string
		victim int // index in the script, -1 none
	}{
		{"FFFF", -1},
		{"FFFFL", 0},   // the flooding host gives way for another
		{"LFFFF", 1},   // and for itself
		{"LFFF", -1},   //
		{"LLFFF", 2},   // equal shares: the newcomer counts
		{"LLFFM", 0},   // equal shares of others: the longest under way
		{"ABCDE", 0},   // all different: the longest under way
		{"ABCDA", 0},   // the newcomer's own
		{"BACDA", 1},   //
		{"FFFFFFL", 2}, // two gave way before
	}
	for _, c := range cases {
		p, all := pending{limit: 4}, []*handshake{}
		var victim *handshake
		for _, letter := range []byte(c.script) {
			h := &handshake{host: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, letter}), 32)}
			all = append(all, h)
			victim = p.add(h)
			if len(p.all) > 4 {
				t.Fatalf("%s: %d under way", c.script, len(p.all))
			}
		}
		got := -1
		for i, h := range all {
			if h == victim {
				got = i
			}
		}
		if got != c.victim {
			t.Errorf("%s: %d gives way, want %d", c.script, got, c.victim)
		}
		if victim != nil && p.remove(victim) {
			t.Errorf("%s: the victim is still in", c.script)
		}
		if last := all[len(all)-1]; !p.remove(last) || p.remove(last) {
			t.Errorf("%s: the newcomer is in %d times", c.script, len(p.all))
		}
	}
}

func TestStrangerLogIsBounded(t *testing.T) {
	l := newStrangerLog(nil)
	start := time.Unix(1000, 0)
	written := 0
	for i := range 1000 {
		if suppressed, ok := l.take(start.Add(time.Duration(i) * time.Millisecond)); ok {
			written++
			if suppressed != 0 {
				t.Errorf("%d suppressed before line %d", suppressed, i)
			}
		}
	}
	if written != strangerLines {
		t.Errorf("%d lines", written)
	}
	if suppressed, ok := l.take(start.Add(strangerWindow)); !ok || suppressed != 1000-strangerLines {
		t.Errorf("%d suppressed, %v", suppressed, ok)
	}
}
