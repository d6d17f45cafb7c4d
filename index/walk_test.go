package index

import (
	"archive/tar"
	"bytes"
	"compress/bzip2"
	"encoding/base64"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// goTestdata are the tars that archive/tar is tested with.
func goTestdata(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(goroot(t), "src/archive/tar/testdata/*.tar*"))
	check(t, err)
	if len(paths) < 30 {
		t.Fatalf("%d tars in GOROOT", len(paths))
	}
	tars := map[string][]byte{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		check(t, err)
		var r io.Reader = bytes.NewReader(b)
		switch filepath.Ext(path) {
		case ".bz2":
			r = bzip2.NewReader(r)
		case ".base64":
			r = base64.NewDecoder(base64.StdEncoding, r)
		}
		b, err = io.ReadAll(io.LimitReader(r, 8<<20))
		check(t, err)
		tars[filepath.Base(path)] = b
	}
	return tars
}

func TestWalkReadsTheTarsOfGoAsGoDoes(t *testing.T) {
	for name, b := range goTestdata(t) {
		t.Run(name, func(t *testing.T) { compareWalks(t, b) })
	}
}

func TestWalkReadsRandomTarsAsGoDoes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		compareWalks(t, randomTar(t, r))
	}
}

// randomTar writes a tar with archive/tar: all types and formats, with names, numbers and contents of all sizes.
func randomTar(t testing.TB, r *rand.Rand) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for range r.IntN(30) {
		h := randomHeader(r)
		if err := w.WriteHeader(h); err != nil {
			h.Format = tar.FormatUnknown // it doesn't fit into the format that was asked for
			check(t, w.WriteHeader(h))
		}
		c := make([]byte, h.Size)
		for i := range c {
			c[i] = byte(r.Uint32())
		}
		_, err := w.Write(c)
		check(t, err)
	}
	if r.IntN(4) == 0 {
		check(t, w.Flush())
	} else {
		check(t, w.Close())
	}
	return b.Bytes()
}

func randomHeader(r *rand.Rand) *tar.Header {
	types := []byte{tar.TypeReg, tar.TypeReg, tar.TypeReg, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo}
	h := &tar.Header{
		Typeflag: types[r.IntN(len(types))],
		Name:     randomName(r),
		Mode:     r.Int64N(0o10000),
		Uid:      r.IntN(1 << (1 + r.IntN(31))),
		Gid:      r.IntN(1 << (1 + r.IntN(31))),
		ModTime:  time.Unix(r.Int64N(1<<40)-1<<38, r.Int64N(1e9)),
	}
	switch h.Typeflag {
	case tar.TypeReg:
		h.Size = r.Int64N(1 << (1 + r.IntN(14)))
		h.Name = strings.TrimRight(h.Name, "/")
	case tar.TypeLink, tar.TypeSymlink:
		h.Linkname = randomName(r)
	case tar.TypeChar, tar.TypeBlock:
		h.Devmajor, h.Devminor = r.Int64N(1<<20), r.Int64N(1<<20)
	case tar.TypeDir:
		h.Name += "/"
	}
	switch h.Format = []tar.Format{tar.FormatUnknown, tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU}[r.IntN(4)]; h.Format {
	case tar.FormatUSTAR, tar.FormatUnknown:
		h.ModTime = time.Unix(r.Int64N(1<<33), 0)
	case tar.FormatPAX:
		h.PAXRecords = map[string]string{}
		for range r.IntN(3) {
			h.PAXRecords[paxXattr+"user."+randomWord(r, 20)] = randomWord(r, 2000)
		}
	}
	return h
}

func randomName(r *rand.Rand) string {
	var parts []string
	for range 1 + r.IntN(6) {
		parts = append(parts, randomWord(r, 1<<(1+r.IntN(8))))
	}
	return strings.Join(parts, "/")
}

func randomWord(r *rand.Rand, max int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz.-_ äß日"
	var s strings.Builder
	for range 1 + r.IntN(max) {
		s.WriteRune([]rune(letters)[r.IntN(len([]rune(letters)))])
	}
	return s.String()
}

func TestWalkReadsWhatGNUTarWrites(t *testing.T) {
	dir := t.TempDir()
	sparseFiles(t, dir)
	check(t, os.Mkdir(filepath.Join(dir, "dir"), 0o1777))
	check(t, os.Symlink(strings.Repeat("t", 300), filepath.Join(dir, "link")))
	check(t, os.Link(filepath.Join(dir, "empty"), filepath.Join(dir, "hard")))
	long := strings.Repeat("n", 200)
	check(t, os.WriteFile(filepath.Join(dir, long), []byte("long"), 0o4755))
	check(t, os.Chtimes(filepath.Join(dir, long), time.Time{}, time.Unix(-5, 123456789)))
	for _, options := range [][]string{
		{"--format=v7", "--exclude=" + long, "--exclude=link"},
		{"--format=oldgnu"},
		{"--format=gnu"},
		{"--format=gnu", "--sparse"},
		{"--format=ustar", "--exclude=" + long, "--exclude=link"},
		{"--format=posix"},
		{"--format=posix", "--sparse", "--sparse-version=0.0"},
		{"--format=posix", "--sparse", "--sparse-version=0.1"},
		{"--format=posix", "--sparse", "--sparse-version=1.0"},
	} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			b := run(t, dir, "tar", append(options, "-cf", "-", ".")...)
			compareWalks(t, b)
			list, err := walk(t, b)
			check(t, err)
			checkSparse(t, list, b, dir)
			if n := fragments(list, "./many"); strings.Contains(options[min(1, len(options)-1)], "sparse") != (n == 60) {
				t.Errorf("%d extents", n)
			}
		})
	}
}

// sparseFiles writes files with holes: at the start, at the end, many of them, nothing else.
func sparseFiles(t *testing.T, dir string) {
	t.Helper()
	for name, data := range map[string]map[int64]string{
		"empty":  {},
		"dense":  {0: strings.Repeat("dense", 5000)},
		"hole":   {1 << 20: ""},
		"start":  {1 << 20: "data"},
		"end":    {0: "data", 3 << 20: ""},
		"middle": {0: "data", 1 << 20: "more", 2<<20 + 5: "the end"},
		"many":   manyFragments(),
	} {
		f, err := os.Create(filepath.Join(dir, name))
		check(t, err)
		for off, s := range data {
			_, err := f.WriteAt([]byte(s), off)
			check(t, err)
			info, err := f.Stat()
			check(t, err)
			check(t, f.Truncate(max(off+int64(len(s)), info.Size())))
		}
		check(t, f.Close())
	}
}

// manyFragments needs more sparse entries than a header holds, and than one extension does.
func manyFragments() map[int64]string {
	m := map[int64]string{}
	for i := range int64(60) {
		m[i*3*4096] = strings.Repeat("x", 100+int(i))
	}
	return m
}

// checkSparse compares contents with the files that were archived.
func checkSparse(t *testing.T, list []Entry, b []byte, dir string) {
	t.Helper()
	for i := range list {
		e := &list[i]
		if e.Type != TypeRegular {
			continue
		}
		want, err := os.ReadFile(filepath.Join(dir, e.Name))
		check(t, err)
		got, err := content(e, bytes.NewReader(b))
		check(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: content differs", e.Name)
		}
	}
}

func fragments(list []Entry, name string) int {
	for i := range list {
		if list[i].Name == name {
			return len(list[i].Extents)
		}
	}
	return 0
}
