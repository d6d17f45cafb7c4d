package images

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"imgfs/e2e/internal/peer"
)

func TestEveryImageIsInItsLayoutAndIsMadeOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	set, err := Get(ctx, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	for _, im := range set.All() {
		out, err := peer.Run(ctx, "skopeo", "inspect", "--raw", "oci:"+im.Layout+":"+im.Tag)
		if err != nil {
			t.Fatal(err)
		}
		var manifest struct{ Layers []struct{ Size int64 } }
		if err := json.Unmarshal(out, &manifest); err != nil {
			t.Fatalf("%s: %v", im.Name, err)
		}
		if len(manifest.Layers) == 0 {
			t.Errorf("%s has no layers", im.Name)
		}
		var size int64
		for _, l := range manifest.Layers {
			size += l.Size
		}
		t.Logf("%s: %d layers, %d bytes", im.Name, len(manifest.Layers), size)
	}
	again, err := Get(ctx, func(format string, args ...any) { t.Errorf("made again: "+format, args...) })
	if err != nil || *again != *set {
		t.Errorf("the second call gives %v, %v, want %v", again, err, set)
	}
}
