package main

import (
	"slices"
	"strings"
	"testing"
)

func TestFlagsFirst(t *testing.T) {
	tests := []struct{ line, want string }{
		{"duet", "duet"},
		{"duet status", "duet status"},
		{"duet status r0 --json", "duet status --json r0"},
		{"duet status --json r0", "duet status --json r0"},
		{"duet status --dir /n r0", "duet --dir /n status r0"},
		{"duet --dir=/n status r0", "duet --dir=/n status r0"},
		{"duet resource create r0 --size 1GiB --on a=/x --force --on b=/y",
			"duet resource create --size 1GiB --on a=/x --force --on b=/y r0"},
		{"duet resync status r0 --json --timeout 3s", "duet --timeout 3s resync status --json r0"},
		{"duet token --ttl", "duet token --ttl"},
		{"duet status r0 --frob x", "duet status --frob r0 x"},
		{"duet --frob status", "duet --frob status"},
		{"duet status -- --json", "duet status -- --json"},
		{"duet status -", "duet status -"},
		{"duet status status", "duet status status"},
		{"duet events -f r0", "duet events -f r0"},
		{"duet frob --json", "duet --json frob"},
		{"duet status --help", "duet status --help"},
	}
	app := new(program).app()
	for _, tt := range tests {
		if got := strings.Join(flagsFirst(app, strings.Fields(tt.line)), " "); got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.line, got, tt.want)
		}
	}
}

// No word is lost or made up, whatever the line.
func FuzzFlagsFirst(f *testing.F) {
	f.Add("status r0 --json")
	f.Add("--dir /x resource create -- --on --size=3 -")
	app := new(program).app()
	f.Fuzz(func(t *testing.T, text string) {
		line := append([]string{"duet"}, strings.Split(text, " ")...)
		got := flagsFirst(app, line)
		slices.Sort(line)
		slices.Sort(got)
		if !slices.Equal(line, got) {
			t.Errorf("%q became %q", line, got)
		}
	})
}
