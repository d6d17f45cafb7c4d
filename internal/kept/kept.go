// Package kept makes directories that take long to make, once, and keeps them in the user's cache directory: what tests
// and benchmarks run on. Nothing here is for other use.
package kept

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir returns the directory imgfs-test/NAME-KEY of the user's cache directory. Where it isn't there, make makes it: in the
// directory out, which exists, and work, which is removed after. The directory appears whole or not at all. One process
// makes it, the others wait.
//
// The key is a hash of recipe, all files of it but tests, and of salt: what decides what make makes.
func Dir(name string, recipe fs.FS, salt string, make func(work, out string) error) (string, error) {
	parent, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("where to keep %s: %w", name, err)
	}
	parent = filepath.Join(parent, "imgfs-test")
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(parent, name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	key, err := hash(recipe, salt)
	if err != nil {
		return "", err
	}
	final := filepath.Join(parent, name+"-"+key)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	fmt.Fprintf(os.Stderr, "making %s\n", final)
	return final, makeAt(parent, final, make)
}

// makeAt makes a directory beside the final one, and renames it when everything is there.
func makeAt(parent, final string, make func(work, out string) error) error {
	work, err := os.MkdirTemp(parent, "making-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	out := filepath.Join(work, "out")
	if err := os.Mkdir(out, 0o700); err != nil {
		return err
	}
	if err := make(work, out); err != nil {
		return fmt.Errorf("making %s: %w", final, err)
	}
	return os.Rename(out, final)
}

// lock takes an exclusive lock on a file, which the kernel drops with the process.
func lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return func() { f.Close() }, nil
}

func hash(recipe fs.FS, salt string) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q\n", salt)
	err := fs.WalkDir(recipe, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(name, "_test.go") {
			return err
		}
		b, err := fs.ReadFile(recipe, name)
		fmt.Fprintf(h, "%s %d\n%s", name, len(b), b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:16], err
}
