package images

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"imgfs/e2e/internal/peer"
)

// An archive writes the tar of a layer to a file.
type archive func(ctx context.Context, file string) error

// GNU tar's ways to write sparse files, long names and times: its own old
// one, and those of the PAX format, the last one without holes.
var (
	gnuDialect  = []string{"--format=gnu", "--sparse"}
	paxDialects = [][]string{
		{"--format=pax", "--sparse", "--sparse-version=0.0"},
		{"--format=pax", "--sparse", "--sparse-version=0.1"},
		{"--format=pax", "--sparse", "--sparse-version=1.0", "--xattrs"},
		{"--format=pax"},
	}
)

// gnuTarLayer returns the maker of a layer by GNU tar in a dialect: the root,
// and a directory of the dialect's own with sparse files, long names and a link.
func gnuTarLayer(dialect []string) archive {
	return func(ctx context.Context, file string) error {
		dir, err := os.MkdirTemp(filepath.Dir(file), "tar-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil { // it becomes the root
			return err
		}
		name := "gnutar" + strings.Join(dialect, "")
		if err := sparseFiles(filepath.Join(dir, name)); err != nil {
			return err
		}
		args := append([]string{"--create", "--file", file, "--directory", dir}, dialect...)
		_, err = peer.Run(ctx, "tar", append(args, ".")...)
		return err
	}
}

// sparseFiles makes a directory of files with holes at their start, between
// and at their end, and with more pieces than one header holds.
func sparseFiles(dir string) error {
	long := filepath.Join(dir, strings.Repeat("long-", 30), strings.Repeat("name-", 40))
	if err := os.MkdirAll(filepath.Dir(long), 0o755); err != nil {
		return err
	}
	const block = 64 << 10
	files := map[string]struct {
		size int64
		data []int64 // where in the file a block of data is
	}{
		filepath.Join(dir, "start"): {size: 3 * block, data: []int64{0}},
		filepath.Join(dir, "end"):   {size: 3 * block, data: []int64{2 * block}},
		filepath.Join(dir, "hole"):  {size: 100 * block},
		filepath.Join(dir, "odd"):   {size: 10*block + 1, data: []int64{block, 9 * block}},
		filepath.Join(dir, "many"):  {size: 400 * block, data: every(2*block, 400*block)},
		long:                        {size: block, data: []int64{0}},
	}
	for name, f := range files {
		if err := sparseFile(name, f.size, f.data, block); err != nil {
			return err
		}
	}
	return os.Symlink(strings.Repeat("far/", 40), filepath.Join(dir, "link"))
}

// every returns the multiples of step below end.
func every(step, end int64) []int64 {
	var all []int64
	for at := int64(0); at < end; at += step {
		all = append(all, at)
	}
	return all
}

func sparseFile(name string, size int64, data []int64, block int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	for _, at := range data {
		piece := strings.Repeat(fmt.Sprintf("%015d\n", at), block/16)
		if _, err := f.WriteAt([]byte(piece), at); err != nil {
			return err
		}
	}
	return f.Close()
}

// whiteoutLayer writes a layer of what the tools that repack trees do not
// write: opaque markers before and after the new entries, a whiteout beside
// a new entry of its name, and times with nanoseconds.
func whiteoutLayer(_ context.Context, file string) error {
	const src = "usr/share/go-1.19/src/"
	dir := func(name string) tar.Header {
		return tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}
	}
	reg := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	attr := reg("opt/whiteouts/attributes")
	attr.PAXRecords = map[string]string{"SCHILY.xattr.user.origin": "PAX\x00value"}
	return writeTar(file, []tar.Header{
		dir("."), dir("opt"), dir("opt/whiteouts"), attr,
		{Typeflag: tar.TypeLink, Name: "/opt/whiteouts/hard", Linkname: "./opt/whiteouts/attributes", Mode: 0o644},
		dir(src + "net"), reg(src + "net/.wh..wh..opq"), reg(src + "net/after-the-marker"),
		dir(src + "os"), reg(src + "os/before-the-marker"), dir(src + "os/new"), reg(src + "os/.wh..wh..opq"),
		dir(src + "crypto"), reg(src + "crypto/.wh.aes"), reg(src + "crypto/.wh.crypto.go"),
		reg(src + "crypto/.wh.rsa"), dir(src + "crypto/rsa"), reg(src + "crypto/rsa/new"),
	})
}

// disputedLayer writes a layer of what the peers see differently, and where
// imgfs does as containerd does: the owner, mode and time that a hard link's
// own header has become the file's, and trusted attributes are left out.
func disputedLayer(_ context.Context, file string) error {
	return writeTar(file, []tar.Header{
		{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "d/file", Mode: 0o644},
		{Typeflag: tar.TypeLink, Name: "d/hard", Linkname: "d/file", Mode: 0o600, Uid: 5, ModTime: layerTime.Add(time.Hour)},
		{Typeflag: tar.TypeReg, Name: "d/attributes", Mode: 0o644, PAXRecords: map[string]string{
			"SCHILY.xattr.trusted.secret": "1", "SCHILY.xattr.user.plain": "2",
		}},
	})
}

// layerTime is when the entries were changed of the layers written here.
var layerTime = time.Unix(1_234_567_890, 987_654_321)

// writeTar writes an archive of entries, each regular file holding its own
// name, in the PAX format.
func writeTar(file string, entries []tar.Header) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, h := range entries {
		h.Format = tar.FormatPAX
		if h.ModTime.IsZero() {
			h.ModTime = layerTime
		}
		content := ""
		if h.Typeflag == tar.TypeReg && !strings.Contains(h.Name, "/.wh.") {
			content = h.Name
		}
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}
