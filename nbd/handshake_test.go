package nbd

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"duet/nbd/internal/wire"
	"duet/nbd/nbdtest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// handshakes are negotiations, step by step; what the server says to each is in testdata/handshake.
var handshakes = []struct {
	name     string
	required bool // TLS is required
	steps    [][]byte
}{
	{name: "go", steps: [][]byte{{0, 0, 0, 3}, option(wire.OptGo, goData("r0")...)}},
	{name: "go-with-names", steps: [][]byte{{0, 0, 0, 3},
		option(wire.OptGo, goData("", wire.InfoExport, wire.InfoName, wire.InfoDescription, wire.InfoBlockSize, 77)...)}},
	{name: "go-structured", steps: [][]byte{{0, 0, 0, 3}, option(wire.OptStructuredReply), option(wire.OptGo, goData("r0")...)}},
	{name: "go-read-only", steps: [][]byte{{0, 0, 0, 3}, option(wire.OptGo, goData("r1")...)}},
	{name: "info-then-go", steps: [][]byte{{0, 0, 0, 3}, option(wire.OptInfo, goData("r0")...), option(wire.OptGo, goData("r0")...)}},
	{name: "refusals", steps: [][]byte{{0, 0, 0, 3},
		option(wire.OptGo, goData("nothing")...), option(wire.OptGo, goData("secondary")...),
		option(wire.OptInfo, goData("leaving")...)}},
	{name: "go-malformed", steps: [][]byte{{0, 0, 0, 3},
		option(wire.OptGo), option(wire.OptGo, 0, 0, 0, 9, 'r'), option(wire.OptGo, 0xff, 0xff, 0xff, 0xff),
		option(wire.OptGo, append(goData("r0"), 0)...), option(wire.OptGo, 0, 0, 0, 2, 'r', '0', 0, 2, 0, 0),
		option(wire.OptGo, goData("a\x00b")...), option(wire.OptGo, goData("\xff")...),
		option(wire.OptGo, goData(strings.Repeat("n", 4097))...), option(wire.OptAbort)}},
	{name: "export-name", steps: [][]byte{{0, 0, 0, 3}, option(wire.OptExportName, []byte("r0")...)}},
	{name: "export-name-zeroes", steps: [][]byte{{0, 0, 0, 1}, option(wire.OptExportName, []byte("r0")...)}},
	{name: "export-name-not-fixed", steps: [][]byte{{0, 0, 0, 0}, option(wire.OptExportName)}},
	{name: "export-name-unknown", steps: [][]byte{{0, 0, 0, 3}, option(wire.OptExportName, []byte("nothing")...)}},
	{name: "list", steps: [][]byte{{0, 0, 0, 3}, option(wire.OptList), option(wire.OptList, 1), option(wire.OptAbort)}},
	{name: "abort-with-data", steps: [][]byte{{0, 0, 0, 3}, option(wire.OptAbort, 1, 2, 3)}},
	{name: "unknown-options", steps: [][]byte{{0, 0, 0, 3},
		option(4, 1, 2, 3), option(wire.OptExtendedHeaders), option(999, make([]byte, 5000)...), option(wire.OptAbort)}},
	{name: "oversize-option", steps: [][]byte{{0, 0, 0, 3}, option(999, make([]byte, maxOptionBytes+1)...), option(wire.OptAbort)}},
	{name: "absurd-option", steps: [][]byte{{0, 0, 0, 3}, wire.OptionHeader{Option: 999, Length: 1 << 31}.Append(nil)}},
	{name: "unknown-client-flags", steps: [][]byte{{0, 0, 0, 7}}},
	{name: "wrong-option-magic", steps: [][]byte{{0, 0, 0, 3}, []byte("GET / HTTP/1.1\r\n\r\n")}},
	{name: "meta-context", steps: [][]byte{{0, 0, 0, 3},
		option(wire.OptSetMetaContext, metaData("r0", "base:allocation")...), option(wire.OptStructuredReply),
		option(wire.OptListMetaContext, metaData("r0")...), option(wire.OptListMetaContext, metaData("r0", "base:")...),
		option(wire.OptListMetaContext, metaData("r0", "x-other:thing")...),
		option(wire.OptListMetaContext, metaData("nothing")...),
		option(wire.OptSetMetaContext, metaData("r0", "base:")...),
		option(wire.OptSetMetaContext, metaData("r0", "allocation")...),
		option(wire.OptSetMetaContext, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff),
		option(wire.OptSetMetaContext, metaData("r0", "x-other:thing", "base:allocation")...),
		option(wire.OptGo, goData("r0")...)}},
	{name: "structured-with-data", steps: [][]byte{{0, 0, 0, 3}, option(wire.OptStructuredReply, 1), option(wire.OptAbort)}},
	{name: "starttls-without-tls", steps: [][]byte{{0, 0, 0, 3}, option(wire.OptStartTLS), option(wire.OptAbort)}},
	{name: "tls-required", required: true, steps: [][]byte{{0, 0, 0, 3},
		option(wire.OptGo, goData("r0")...), option(wire.OptList), option(999), option(wire.OptStartTLS, 1), option(wire.OptAbort)}},
	{name: "tls-required-export-name", required: true, steps: [][]byte{{0, 0, 0, 3}, option(wire.OptExportName, []byte("r0")...)}},
	{name: "tls-required-not-fixed", required: true, steps: [][]byte{{0, 0, 0, 2}, option(wire.OptList)}},
}

func TestHandshakeTranscripts(t *testing.T) {
	exports := directory{
		{Name: "r0", Description: "the first resource", Device: nbdtest.NewMemory(8 << 20)},
		{Name: "r1", Device: nbdtest.NewMemory(4097), ReadOnly: true},
	}
	for _, h := range handshakes {
		t.Run(h.name, func(t *testing.T) {
			cfg := Config{}
			if h.required {
				cfg = Config{TLS: newCertificates(t).server, TLSRequired: true}
			}
			var transcript []byte
			synctest.Test(t, func(t *testing.T) {
				transcript = record(newTape(t, startServer(t, exports, cfg)), h.steps)
			})
			compareGolden(t, filepath.Join("testdata", "handshake", h.name+".txt"), transcript)
		})
	}
}

// record plays the steps and writes down what both sides say.
func record(tp *tape, steps [][]byte) []byte {
	var b bytes.Buffer
	said, closed := tp.take()
	writeHex(&b, "S", said)
	for _, step := range steps {
		if closed {
			break
		}
		tp.send(step)
		writeHex(&b, "C", step)
		said, closed = tp.take()
		writeHex(&b, "S", said)
	}
	if closed {
		b.WriteString("S closes\n")
	}
	return b.Bytes()
}

// writeHex writes who said what, 16 bytes a line, the printable ones repeated. Long runs of zeroes are left out.
func writeHex(b *bytes.Buffer, who string, p []byte) {
	for i := 0; i < len(p); i += 16 {
		line := p[i:min(i+16, len(p))]
		if zero := len(bytes.TrimLeft(p[i:], "\x00")); len(p)-i-zero >= 128 {
			skipped := (len(p) - i - zero) / 16 * 16
			fmt.Fprintf(b, "%s (%d zeroes)\n", who, skipped)
			i += skipped - 16
			continue
		}
		printable := bytes.Map(printableOrDot, latin(line))
		fmt.Fprintf(b, "%s %-32s %s\n", who, hex.EncodeToString(line), printable)
	}
}

func printableOrDot(r rune) rune {
	if r < ' ' {
		return '.'
	}
	return r
}

// latin replaces what is not ASCII, so that a byte stays a column.
func latin(p []byte) []byte {
	out := bytes.Clone(p)
	for i, c := range out {
		if c > '~' {
			out[i] = '.'
		}
	}
	return out
}

func compareGolden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got:\n%s", path, got)
	}
}
