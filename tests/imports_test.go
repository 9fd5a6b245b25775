package tests

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// directions says which packages of duet each may import, besides itself and what is below itself. It is the picture
// in docs/ARCHITECTURE.md; .golangci.yml says the same to the linter. A package that is not named here may not exist.
var directions = map[string][]string{
	"duet/nbd":         {},
	"duet/bitmap":      {},
	"duet/quorum":      {},
	"duet/replication": {"duet/bitmap"},

	"duet/internal/control": {},
	"duet/internal/config":  {"duet/internal/pki", "duet/internal/mux", "duet/internal/device"},
	"duet/internal/device":  {},
	"duet/internal/pki":     {},
	"duet/internal/mux":     {"duet/internal/pki", "duet/internal/socket"},
	"duet/internal/socket":  {},
	"duet/internal/vip":     {},
	// handlers runs programs of the operator, and knows nothing of what they are run for.
	"duet/internal/handlers": {},
	"duet/internal/node": {
		"duet/replication", "duet/bitmap", "duet/nbd", "duet/quorum",
		"duet/internal/control", "duet/internal/config", "duet/internal/device", "duet/internal/pki", "duet/internal/mux",
		"duet/internal/socket", "duet/internal/supervisor", "duet/internal/handlers",
	},
	"duet/internal/supervisor": {"duet/internal/config", "duet/internal/control", "duet/internal/mux", "duet/internal/pki"},
	"duet/cmd/duet": {
		"duet/internal/node", "duet/internal/control", "duet/internal/config", "duet/internal/device", "duet/internal/pki",
		"duet/internal/mux", "duet/internal/supervisor", "duet/internal/vip", "duet/nbd", "duet/replication", "duet/bitmap",
	},

	"duet/internal/crash": {}, // for tests alone: nobody may import it
	"duet/internal/sim":   {"duet"},
	"duet/tests":          {"duet"},
	"duet/scripts":        {"duet"},
}

// onlyHere are libraries that belong to one package, because it is there to hide them.
var onlyHere = map[string]string{
	"github.com/hashicorp/raft":        "duet/quorum",
	"github.com/hashicorp/raft-boltdb": "duet/quorum",
	"go.etcd.io/bbolt":                 "duet/quorum",
	"github.com/bits-and-blooms":       "duet/bitmap",
	"github.com/pojntfx/go-nbd":        "duet/nbd",
	"github.com/urfave/cli":            "duet/cmd/duet",
	"github.com/vishvananda":           "duet/internal/vip",
}

// listed is what is read of `go list -json`.
type listed struct {
	ImportPath string
	Imports    []string
}

func TestImportsPointDownwards(t *testing.T) {
	for _, p := range listPackages(t) {
		owner := ownerOf(p.ImportPath)
		if owner == "" {
			t.Errorf("%s has no place in the picture of the packages: add it to directions", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			if below(imported, "duet") && !mayImport(owner, imported) {
				t.Errorf("%s imports %s", p.ImportPath, imported)
			}
			for library, home := range onlyHere {
				if below(imported, library) && !below(owner, home) && !slices.Contains(directions[owner], "duet") {
					t.Errorf("%s imports %s, which belongs to %s", p.ImportPath, imported, home)
				}
			}
		}
	}
}

func TestMayImport(t *testing.T) {
	tests := []struct {
		from, to string
		want     bool
	}{
		{"duet/nbd", "duet/nbd/internal/wire", true},
		{"duet/nbd", "duet/replication", false},
		{"duet/replication", "duet/bitmap", true},
		{"duet/replication", "duet/bitmapper", false},
		{"duet/internal/node", "duet/internal/sim", false},
		{"duet/bitmap", "duet/internal/crash", false},
		{"duet/tests", "duet/cmd/duet", true},
	}
	for _, tt := range tests {
		if got := mayImport(tt.from, tt.to); got != tt.want {
			t.Errorf("%s may import %s: %v, want %v", tt.from, tt.to, got, tt.want)
		}
	}
}

func mayImport(owner, imported string) bool {
	if below(imported, owner) {
		return true
	}
	return slices.ContainsFunc(directions[owner], func(allowed string) bool { return below(imported, allowed) })
}

// ownerOf finds the entry of directions that a package belongs to: the longest that is above it.
func ownerOf(path string) string {
	owner := ""
	for candidate := range directions {
		if below(path, candidate) && len(candidate) > len(owner) {
			owner = candidate
		}
	}
	return owner
}

// below is whether path is root or in a folder of root.
func below(path, root string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}

// listPackages lists the packages of this module with what they import. Tests are not looked at: they may use more.
func listPackages(t *testing.T) []listed {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports", "duet/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(output)))
	var packages []listed
	for {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}
