package tests

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// maxLines is the house limit of a source file, tests excepted: longer ones have more than one concern.
const maxLines = 600

// eachGoFile calls visit for every Go file of the repository.
func eachGoFile(t *testing.T, visit func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		visit(path, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesStayShort(t *testing.T) {
	eachGoFile(t, func(path string, text []byte) {
		if lines := bytes.Count(text, []byte("\n")); lines > maxLines && !strings.HasSuffix(path, "_test.go") {
			t.Errorf("%s has %d lines: split it by concern (%d are allowed)", path, lines, maxLines)
		}
	})
}

func TestEveryPackageIsIntroduced(t *testing.T) {
	folders := make(map[string]bool) // and whether it has a doc.go
	eachGoFile(t, func(path string, _ []byte) {
		if !strings.Contains(path, "testdata") {
			folder := filepath.Dir(path)
			folders[folder] = folders[folder] || filepath.Base(path) == "doc.go"
		}
	})
	for folder, introduced := range folders {
		if !introduced {
			t.Errorf("%s has no doc.go", folder)
		}
	}
}

// A test that sleeps is slow when all is well and wrong when the machine is busy, unless its time is virtual. The name
// is put together here so that this file does not find itself.
func TestTestsDoNotSleep(t *testing.T) {
	sleep, bubble := []byte("time"+".Sleep("), []byte(`"testing/`+`synctest"`)
	virtual := make(map[string]bool) // folders whose tests run in bubbles
	eachGoFile(t, func(path string, text []byte) {
		if bytes.Contains(text, bubble) {
			virtual[filepath.Dir(path)] = true
		}
	})
	eachGoFile(t, func(path string, text []byte) {
		if strings.HasSuffix(path, "_test.go") && bytes.Contains(text, sleep) && !virtual[filepath.Dir(path)] {
			t.Errorf("%s sleeps: wait for the condition, or use testing/synctest", path)
		}
	})
}
