package images

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestEveryImageHasItsLayersInTheLayout(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	set, err := Get(ctx, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	for _, im := range set.All() {
		b, err := os.ReadFile(filepath.Join(im.Layout, "index.json"))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s", im.Name, b)
		if !json.Valid(b) {
			t.Errorf("%s: the index of its layout is not JSON", im.Name)
		}
	}
}
