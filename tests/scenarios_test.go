package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// inCode finds what a table has in code font.
var inCode = regexp.MustCompile("`([^`]+)`")

// scenarioProblem says what is wrong with a row of docs/SCENARIOS.md; text returns that of a file.
func scenarioProblem(cells []string, text func(file string) string) string {
	if len(cells) != 3 || cells[0] == "" || cells[1] == "" {
		return "is no row of three cells"
	}
	shown := cells[2]
	for _, beginning := range []string{"not yet: ", "does not apply: "} {
		if strings.HasPrefix(shown, beginning) {
			return ""
		}
	}
	file, tests := "", 0
	for _, match := range inCode.FindAllStringSubmatch(shown, -1) {
		name := match[1]
		if strings.HasSuffix(name, "_test.go") {
			file = name
			continue
		}
		if !strings.Contains(text(file), "\nfunc "+name+"(t *testing.T)") {
			return name + " is not in " + file
		}
		tests++
	}
	if tests == 0 {
		return "names no test, and does not say why"
	}
	return ""
}

// Every scenario has its tests, or a word why not, and no test that is named there is gone.
func TestScenariosHaveTheirTests(t *testing.T) {
	page, err := os.ReadFile("../docs/SCENARIOS.md")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	text := func(file string) string {
		if _, ok := files[file]; !ok && file != "" {
			content, err := os.ReadFile(filepath.Join("..", file))
			if err != nil {
				t.Error(err)
			}
			files[file] = string(content)
		}
		return files[file]
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		line, row := strings.CutPrefix(strings.TrimSpace(line), "| ")
		if !row || strings.HasPrefix(line, "scenario |") {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(line, " |"), " | ")
		if problem := scenarioProblem(cells, text); problem != "" {
			t.Errorf("%s: %s", cells[0], problem)
		}
		if seen[cells[0]] {
			t.Errorf("%s: twice", cells[0])
		}
		seen[cells[0]] = true
	}
	if len(seen) < 60 {
		t.Errorf("only %d scenarios", len(seen))
	}
}

func TestScenarioProblem(t *testing.T) {
	text := func(file string) string {
		return map[string]string{"a/b_test.go": "\nfunc TestHere(t *testing.T) {"}[file]
	}
	for row, sound := range map[string]bool{
		"x | y | `a/b_test.go` `TestHere`":              true,
		"x | y | does not apply: why":                   true,
		"x | y | not yet: what":                         true,
		"x | y | `a/b_test.go` `TestHere` `TestGone`":   false,
		"x | y | `a/c_test.go` `TestHere`":              false,
		"x | y | `TestHere`":                            false,
		"x | y | later":                                 false,
		"x | does not apply: why":                       false,
		"x |  | does not apply: why":                    false,
		"x | y | `a/b_test.go`":                         false,
		"x | y | z | `a/b_test.go` `TestHere`":          false,
		"x | y | as in `a/b_test.go`, with `TestOther`": false,
	} {
		if problem := scenarioProblem(strings.Split(row, " | "), text); (problem == "") != sound {
			t.Errorf("%s: %q", row, problem)
		}
	}
}
