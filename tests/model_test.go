package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ruled are the packages whose functions docs/QUORUM.md may name, by the name that it uses.
var ruled = map[string]string{
	"quorum": "../quorum", "replication": "../replication", "node": "../internal/node", "config": "../internal/config",
	"mux": "../internal/mux",
}

// ruleRow is a row of the table of rules in docs/QUORUM.md.
type ruleRow struct {
	rule                string
	functions, switches []string
}

// ruleRows are the rows of the table in section 5.
func ruleRows(page string) (rows []ruleRow) {
	_, page, _ = strings.Cut(page, "\n## 5. ")
	page, _, _ = strings.Cut(page, "\n## ")
	for line := range strings.Lines(page) {
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "| "), " |"), " | ")
		if len(cells) != 4 || cells[0] == "rule" || strings.HasPrefix(cells[0], "|--") {
			continue
		}
		rows = append(rows, ruleRow{rule: cells[0], functions: codeIn(cells[2]), switches: codeIn(cells[3])})
	}
	return rows
}

// codeIn is what a cell has in code font.
func codeIn(cell string) (names []string) {
	for _, match := range inCode.FindAllStringSubmatch(cell, -1) {
		names = append(names, match[1])
	}
	return names
}

// functionsOf lists the functions of a package as package.Type.function, its tests excepted.
func functionsOf(t *testing.T, name, folder string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	set := token.NewFileSet()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range parsed.Decls {
			if function, ok := declaration.(*ast.FuncDecl); ok {
				found[name+"."+receiver(function)+function.Name.Name] = true
			}
		}
	}
	return found
}

// receiver is the type that a method belongs to, with a dot; "" of a function.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil || len(f.Recv.List) != 1 {
		return ""
	}
	of := f.Recv.List[0].Type
	if pointer, ok := of.(*ast.StarExpr); ok {
		of = pointer.X
	}
	if name, ok := of.(*ast.Ident); ok {
		return name.Name + "."
	}
	return ""
}

// Every rule names functions that exist and what of the model takes it out; the model and its script know the same switches.
func TestRulesHaveTheirFunctions(t *testing.T) {
	text := func(file string) string {
		content, err := fs.ReadFile(os.DirFS(".."), file)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	functions := map[string]bool{}
	for name, folder := range ruled {
		for function := range functionsOf(t, name, folder) {
			functions[function] = true
		}
	}
	rows, named := ruleRows(text("docs/QUORUM.md")), map[string]bool{}
	for _, row := range rows {
		if len(row.functions) == 0 || len(row.switches) == 0 {
			t.Errorf("%s: nothing enforces it, or nothing takes it out", row.rule)
		}
		for _, function := range row.functions {
			if !functions[function] {
				t.Errorf("%s: there is no function %s", row.rule, function)
			}
		}
		for _, name := range row.switches {
			named[name] = true
		}
	}
	if len(rows) < 14 {
		t.Errorf("only %d rules", len(rows))
	}
	model, script := text("quorum/model/promotion.pml"), text("quorum/model/check")
	tried := group(regexp.MustCompile(`(?m)^\t\t([A-Z_]+)\|`), script)
	explained := group(regexp.MustCompile(`(?m)^ \* {3}(?:\S+) +([A-Z_]{5,}) `), model)
	for _, name := range slices.Concat(tried, explained) {
		if !named[name] {
			t.Errorf("docs/QUORUM.md does not name the switch %s", name)
		}
	}
	for name := range named {
		if !slices.Contains(tried, name) || !slices.Contains(explained, name) || !strings.Contains(model, "def "+name+"\n") {
			t.Errorf("the switch %s is not in the model, not explained at its head, or not tried by quorum/model/check", name)
		}
	}
}

// group is what the pattern's group matches.
func group(pattern *regexp.Regexp, text string) (names []string) {
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		names = append(names, match[1])
	}
	return names
}

// The model holds within small bounds, and finds out when a rule is missing; `make model` tries all of them.
func TestPromotionModel(t *testing.T) {
	needs(t, "spin", "gcc")
	t.Log(run(t, "../quorum/model/check", "short"))
}
