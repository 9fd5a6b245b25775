package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// Every command that changes resyncs asks for just that.
func TestResyncChanges(t *testing.T) {
	for line, want := range map[string]string{
		"resync pause r0":                            `{"paused":true}`,
		"resync resume r0":                           `{"paused":false}`,
		"resync resume r0 --max-rate 1MiB":           `{"paused":false,"max-rate":1048576}`,
		"resync set r0 --max-rate 50MiB":             `{"max-rate":52428800}`,
		"resync set r0 --max-rate off":               `{"max-rate":0}`,
		"resync set --compare always r0":             `{"compare":"always"}`,
		"resync set r0 --max-rate 8K --compare auto": `{"max-rate":8192,"compare":"auto"}`,
	} {
		node := &fakeNode{}
		got := duet(t.Context(), serve(t, node), strings.Fields(line)...)
		asked, err := json.Marshal(node.resync)
		if got.code != 0 || got.stdout+got.stderr != "" || err != nil || string(asked) != want {
			t.Errorf("duet %s: exit code %d, %q %q, asked for %s, %v", line, got.code, got.stdout, got.stderr, asked, err)
		}
	}
}
