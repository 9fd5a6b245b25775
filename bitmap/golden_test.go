package bitmap

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/bits-and-blooms/bitset"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// dump prints a block as hexadecimal rows of 16 bytes. A row that is like the one before is left out, and a * says so.
func dump(b []byte) []byte {
	var out bytes.Buffer
	for at, repeated := 0, false; at < len(b); at += 16 {
		row := b[at : at+16]
		switch {
		case at == 0 || !bytes.Equal(row, b[at-16:at]):
			fmt.Fprintf(&out, "%04x  % x\n", at, row)
			repeated = false
		case !repeated:
			out.WriteString("*\n")
			repeated = true
		}
	}
	return out.Bytes()
}

// TestGoldenBlocks ties the codecs to docs/ON_DISK_FORMAT.md. A change of a golden file is a change of the format.
func TestGoldenBlocks(t *testing.T) {
	g := newGeometry(1<<40+12345, 1000)
	b := make([]byte, diskBlockBytes)
	w := newLogWriter(&g, 6)
	for name, encode := range map[string]func(){
		"log_transaction": func() {
			w.transaction(b, []slotUpdate{{slot: 3, extent: 77}})
			w.transaction(b, []slotUpdate{{slot: 0, extent: 262144}, {slot: 999, extent: 5}})
		},
		"log_reset": func() { newLogWriter(&g, 41).reset(b) },
		"page": func() {
			clear(b)
			encodePage(b, bitset.New(blocksPerPage).SetRange(0, 3).SetRange(1000, 1100).Set(blocksPerPage-1))
			sealPage(b, pageID{slot: 5, page: 300}, 0x1122334455667788, &g)
		},
		"directory": func() {
			d := newDirectory(&g)
			d.set(pageID{0, 0}, entryWritten)
			d.set(pageID{0, 5}, entryAllDirty)
			d.set(pageID{1, 0}, entryAllDirty)
			d.encodeBlock(b, 0, 1, 9)
		},
	} {
		t.Run(name, func(t *testing.T) {
			encode()
			golden(t, name, dump(b))
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
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
		t.Errorf("%s differs from %s:\n%s", name, path, got)
	}
}
