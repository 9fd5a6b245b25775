package replication

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var updateGolden = flag.Bool("update", false, "write the golden files instead of comparing with them")

// compareGolden compares got with a file of testdata. A change of such a file is a change of a format, and belongs
// into the same commit as its specification and its version.
func compareGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *updateGolden {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; run with -update and look at the difference. Got:\n%s", path, got)
	}
}

// dumpBytes prints b in rows of 16; rows of zeroes are left out.
func dumpBytes(b []byte) string {
	var out strings.Builder
	for at := 0; at < len(b); at += 16 {
		if row := b[at:min(at+16, len(b))]; !allZero(row) {
			fmt.Fprintf(&out, "%04d  % x  |%s|\n", at, row, printable(row))
		}
	}
	return out.String()
}

func printable(row []byte) string {
	text := []byte(string(row))
	for i, b := range text {
		if b < ' ' || b > '~' {
			text[i] = '.'
		}
	}
	return string(text)
}

// parseDump reverses dumpBytes, given the length.
func parseDump(t *testing.T, dump string, length int) []byte {
	t.Helper()
	b := make([]byte, length)
	for line := range strings.Lines(dump) {
		var at int
		offset, rest, _ := strings.Cut(line, "  ")
		if _, err := fmt.Sscanf(offset, "%d", &at); err != nil {
			t.Fatalf("golden line %q: %v", line, err)
		}
		digits, _, _ := strings.Cut(rest, "  |")
		row, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
		if err != nil {
			t.Fatalf("golden line %q: %v", line, err)
		}
		copy(b[at:], row)
	}
	return b
}
