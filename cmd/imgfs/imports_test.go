package main

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayImport is who may know whom, of our own packages, in code that is not a test. A new arrow is a decision: it
// belongs into docs/design.md as well.
var mayImport = map[string][]string{
	"imgfs/cmd/imgfs":        {"imgfs/cache", "imgfs/fetcher", "imgfs/fetcher/save", "imgfs/fs", "imgfs/index", "imgfs/layers", "imgfs/internal/machine", "imgfs/layers/upper"},
	"imgfs/fs":               {"imgfs/layers", "imgfs/layers/upper"},
	"imgfs/layers":           {"imgfs/index"},
	"imgfs/index":            {"imgfs/index/inflate"},
	"imgfs/index/inflate":    {},
	"imgfs/cache":            {},
	"imgfs/fetcher":          {},
	"imgfs/fetcher/save":     {"imgfs/fetcher"},
	"imgfs/internal/machine": {},
	"imgfs/layers/upper":     {"imgfs/layers"},
	// For tests and the demonstration alone.
	"imgfs/internal/testimage":      {},
	"imgfs/internal/kept":           {},
	"imgfs/internal/corpus":         {"imgfs/internal/kept"},
	"imgfs/internal/measure":        {},
	"imgfs/internal/measure/ratios": {},
	"imgfs/e2e":                     {},
	"imgfs/e2e/demo":                {"imgfs/internal/testimage"},
	"imgfs/e2e/internal/fsx":        {},
	"imgfs/e2e/internal/images":     {"imgfs/e2e/internal/peer"},
	"imgfs/e2e/internal/peer":       {},
	"imgfs/e2e/internal/scenario":   {},
	"imgfs/e2e/internal/treediff":   {},
}

func TestPackagesImportOnlyWhatTheTableAllows(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,GoFiles", "imgfs/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; seen++ {
		var p struct {
			ImportPath       string
			Imports, GoFiles []string
		}
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		allowed, listed := mayImport[p.ImportPath]
		if !listed {
			t.Errorf("package %s is not in the table", p.ImportPath)
		}
		for _, i := range p.Imports {
			if strings.HasPrefix(i, "imgfs/") && !slices.Contains(allowed, i) {
				t.Errorf("%s imports %s, which the table does not allow", p.ImportPath, i)
			}
		}
	}
	if seen < len(mayImport) {
		t.Errorf("go list shows %d packages, the table has %d", seen, len(mayImport))
	}
}
