package kept_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"imgfs/internal/kept"
)

func TestADirectoryIsMadeOncePerRecipe(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	made := 0
	get := func(recipe, salt string) string {
		t.Helper()
		dir, err := kept.Dir("x", fstest.MapFS{"a.go": {Data: []byte(recipe)}}, salt, func(work, out string) error {
			made++
			return os.WriteFile(filepath.Join(out, "file"), nil, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
			t.Error(err)
		}
		return dir
	}
	one := get("1", "")
	if again := get("1", ""); again != one || made != 1 {
		t.Errorf("made %d times, in %s and %s", made, one, again)
	}
	if other, salted := get("2", ""), get("1", "s"); other == one || salted == one || other == salted {
		t.Errorf("the same directory for other recipes: %s, %s, %s", one, other, salted)
	}
}

func TestADirectoryThatFailsIsNotThere(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	broken := errors.New("broken")
	for range 2 {
		_, err := kept.Dir("x", fstest.MapFS{}, "", func(work, out string) error { return broken })
		if !errors.Is(err, broken) {
			t.Errorf("error is %v", err)
		}
	}
	left, err := filepath.Glob(filepath.Join(cache, "imgfs-test", "*"))
	if err != nil || len(left) != 1 { // the lock
		t.Errorf("left: %v, %v", left, err)
	}
}
