package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"imgfs/cache"
	"imgfs/internal/machine"
	"imgfs/internal/testimage"
)

// noise is bytes that no compression makes fewer.
func noise(seed byte, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return string(b)
}

// push puts an image of one layer into the user's registry, and returns a reference to it and the layer's digest.
func (u *userOf) push(repo string, compress func([]byte) []byte, entries ...testimage.Entry) (ref string, layer digest.Digest) {
	tar := testimage.Tar(entries...)
	l := testimage.NewLayer(compress(tar), tar)
	u.registry.Push(repo, "v1", testimage.Image{Layers: []testimage.Layer{l}}.Bundle())
	return u.registry.Host() + "/" + repo + ":v1", digest.FromBytes(l.Blob)
}

// fails runs a command that has to end with an exit code.
func (u *userOf) fails(code int, args ...string) (stdout, stderr string) {
	u.t.Helper()
	var out, errs bytes.Buffer
	if got := run(append(args, u.flags...), &out, &errs); got != code {
		u.t.Errorf("imgfs %s: exit code %d, want %d: %s%s", strings.Join(args, " "), got, code, &out, &errs)
	}
	return out.String(), errs.String()
}

func (u *userOf) cacheDir() string { return u.flags[1] }

// usage is what cache du says.
func (u *userOf) usage() (usage cacheUsage) {
	u.t.Helper()
	out, _ := u.run("cache", "du", "--json")
	if err := json.Unmarshal([]byte(out), &usage); err != nil {
		u.t.Fatalf("%v in %s", err, out)
	}
	return usage
}

// checked is what cache check says.
func (u *userOf) checked(code int, flags ...string) (found cacheCheck) {
	u.t.Helper()
	out, _ := u.fails(code, append([]string{"cache", "check", "--json"}, flags...)...)
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		u.t.Fatalf("%v in %s", err, out)
	}
	return found
}

func flip(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func TestACacheCheckNamesWhatIsDamagedAndDropsNothingElse(t *testing.T) {
	const blobData = 4096 // where a blob begins in its file
	for _, tt := range []struct {
		kind   string
		damage func(t *testing.T, name string)
	}{
		{"document", func(t *testing.T, name string) { flip(t, name, 3) }},
		{"index", func(t *testing.T, name string) { flip(t, name, 20) }},
		{"index", func(t *testing.T, name string) { cut(t, name) }},
		{"frames", func(t *testing.T, name string) { flip(t, name, 1<<20) }},
		{"frames", func(t *testing.T, name string) { cut(t, name) }},
		{"frames", func(t *testing.T, name string) { os.Remove(name) }},
		{"blob", func(t *testing.T, name string) { flip(t, name, blobData+1<<20) }},
		{"blob", func(t *testing.T, name string) { flip(t, name, 9) }},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			u := newUser(t)
			content := noise(2, 5<<20)
			ref, layer := u.push("team/zstd", testimage.Zstd, testimage.File("file", content))
			u.cat("before")
			u.run("cat", ref+":/file")
			if found := u.checked(exitOK); len(found.Damaged) > 0 || len(found.Unchecked) > 0 || found.Checked < 13<<20 {
				t.Fatalf("before any damage: %+v", found)
			}
			dir := map[string]string{"document": "documents", "index": "indexes", "frames": "frames", "blob": "blobs"}[tt.kind]
			name := filepath.Join(u.cacheDir(), dir, "sha256-"+layer.Encoded())
			d, kind := layer, tt.kind
			switch tt.kind {
			case "document":
				files, err := filepath.Glob(filepath.Join(u.cacheDir(), dir, "*"))
				if err != nil {
					t.Fatal(err)
				}
				name = files[0]
				d = digest.Digest(strings.Replace(filepath.Base(name), "-", ":", 1))
			case "frames":
				kind = "index" // which they are dropped with
			}
			tt.damage(t, name)
			found := u.checked(exitVerification)
			if len(found.Damaged) != 1 || found.Damaged[0].Kind != kind || found.Damaged[0].Digest != d {
				t.Errorf("found damaged: %+v, want the %s %s", found.Damaged, kind, d)
			}
			if found := u.checked(exitOK); len(found.Damaged) > 0 {
				t.Errorf("the second time: %+v", found.Damaged)
			}
			u.cat("afterwards")
			if out, _ := u.run("cat", ref+":/file"); out != content {
				t.Error("afterwards the file is wrong")
			}
		})
	}
}

func TestACacheCheckTellsItInLines(t *testing.T) {
	u := newUser(t)
	u.cat("before")
	out, _ := u.run("cache", "check")
	if strings.Count(out, "\n") != 1 || !strings.Contains(out, "damaged: 0") {
		t.Errorf("without damage it prints %q", out)
	}
	flip(t, filepath.Join(u.cacheDir(), "blobs", "sha256-"+u.layer.Encoded()), 4096+1<<20)
	out, errs := u.fails(exitVerification, "cache", "check")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "blob "+u.layer.String()+": ") || !strings.Contains(lines[1], "damaged: 1") {
		t.Errorf("it prints %q", lines)
	}
	if !strings.Contains(errs, errDamagedCache.Error()) {
		t.Errorf("it says %q", errs)
	}
}

func TestWhatCanNotBeCheckedIsToldAndStaysUnlessItIsToGo(t *testing.T) {
	u := newUser(t)
	ref, layer := u.push("team/two", testimage.Gzip, testimage.File("large", noise(3, 4<<20)), testimage.File("small", "small"))
	u.run("cat", ref+":/small")
	u.run("cache", "rm", "--blobs")
	u.run("cat", ref+":/small") // a span of it
	if found := u.checked(exitOK); len(found.Unchecked) != 0 {
		t.Fatalf("a span and its index: %+v", found)
	}
	u.run("cache", "rm", "--indexes", layer.String())
	for _, flags := range [][]string{nil, {"--drop-unchecked"}} {
		found := u.checked(exitOK, flags...)
		if len(found.Unchecked) != 1 || found.Unchecked[0].Digest != layer || found.Unchecked[0].Kind != "blob" || found.Unchecked[0].Bytes == 0 {
			t.Errorf("%v: %+v", flags, found)
		}
	}
	if found := u.checked(exitOK); len(found.Unchecked) != 0 {
		t.Errorf("it is still there: %+v", found)
	}
}

// What another version has made can't be checked by this one, and frames without an index are of no use to anybody.
func TestIndexesOfAnotherVersionAndLostFramesAreUnchecked(t *testing.T) {
	u := newUser(t)
	ref, layer := u.push("team/zstd", testimage.Zstd, testimage.File("file", noise(2, 5<<20)))
	u.cat("before")
	u.run("cat", ref+":/file")
	flip(t, filepath.Join(u.cacheDir(), "indexes", "sha256-"+u.layer.Encoded()), 8) // the version
	if err := os.Remove(filepath.Join(u.cacheDir(), "indexes", "sha256-"+layer.Encoded())); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, i := range u.checked(exitOK, "--drop-unchecked").Unchecked {
		kinds = append(kinds, i.Kind)
	}
	slices.Sort(kinds)
	if !slices.Equal(kinds, []string{"frames", "index"}) {
		t.Errorf("unchecked are %v", kinds)
	}
	for _, k := range u.usage().Kinds {
		if k.Items > 0 && (k.Kind == "index" || k.Kind == "frames") {
			t.Errorf("left are %+v", k)
		}
	}
}

func TestCommandsLeaveTheCacheWithinItsLimits(t *testing.T) {
	u := newUser(t)
	other, content := noise(4, 3<<20), ""
	ref, _ := u.push("team/b", testimage.Gzip, testimage.File("file", other))
	u.flags = append(u.flags, "--cache-size", "4MiB")
	for range 2 {
		u.cat("the first image")
		if content, _ = u.run("cat", ref+":/file"); content != other {
			t.Error("the second image is wrong")
		}
		usage := u.usage()
		if usage.Disk > 4<<20 || usage.Limit != 4<<20 || usage.Disk < 3<<20 {
			t.Errorf("%+v", usage)
		}
		for _, k := range usage.Kinds {
			if k.Kind == "index" && k.Items != 2 {
				t.Errorf("%d indexes are left", k.Items)
			}
		}
	}
}

func TestTheLimitComesFromTheFlagTheEnvironmentOrNobody(t *testing.T) {
	u := newUser(t)
	if got := u.usage().Limit; got != 20<<30 {
		t.Errorf("by default the limit is %d", got)
	}
	t.Setenv("IMGFS_CACHE_SIZE", "3GiB")
	if got := u.usage().Limit; got != 3<<30 {
		t.Errorf("the environment's limit is %d", got)
	}
	u.flags = append(u.flags, "--cache-size", "0", "--cache-free", "5MiB")
	if got := u.usage(); got.Limit != 0 || got.Floor != 5<<20 {
		t.Errorf("the flags' limits are %+v", got)
	}
	u.flags = u.flags[:2]
	t.Setenv("IMGFS_CACHE_SIZE", "plenty")
	if _, errs := u.fails(exitUsage, "cache", "ls"); !strings.Contains(errs, "IMGFS_CACHE_SIZE") {
		t.Errorf("it says %q", errs)
	}
}

func TestACollectionTellsWhatItFreedAndWhatItCouldNot(t *testing.T) {
	u := newUser(t)
	u.cat("before")
	if _, errs := u.run("cache", "gc"); !strings.HasPrefix(errs, "0 B freed") {
		t.Errorf("within the limits it says %q", errs)
	}
	a := &app{stdout: io.Discard, stderr: io.Discard, log: slog.New(slog.DiscardHandler)}
	s, err := a.newSession(&imageFlags{cacheFlags: cacheFlags{dir: u.cacheDir()}, memory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	im, err := s.open(t.Context(), u.ref())
	if err != nil {
		t.Fatal(err)
	}
	if _, errs := u.fails(exitFailed, "cache", "gc", "--cache-size", "1MiB"); !strings.Contains(errs, "0 B freed") || !strings.Contains(errs, "in use") {
		t.Errorf("of what is in use it says %q", errs)
	}
	im.close()
	if _, errs := u.run("cache", "gc", "--cache-size", "1MiB"); !strings.Contains(errs, "MiB freed") {
		t.Errorf("afterwards it says %q", errs)
	}
	if disk := u.usage().Disk; disk > 1<<20 {
		t.Errorf("%d bytes are left", disk)
	}
}

func TestTheCacheIsListedWithTheTimeOfItsLastUse(t *testing.T) {
	u := newUser(t)
	u.cat("before")
	out, _ := u.run("cache", "ls", "--json")
	var items []cacheItem
	if err := json.Unmarshal([]byte(out), &items); err != nil {
		t.Fatal(err)
	}
	for _, i := range items {
		kept := i.Kind == kindName(cache.Indexes) || i.Kind == kindName(cache.Blobs)
		if i.Used.IsZero() == kept {
			t.Errorf("%s %s was used at %v", i.Kind, i.Digest, i.Used)
		}
	}
	if table, _ := u.run("cache", "ls"); !strings.Contains(table, "USED") {
		t.Errorf("ls prints %s", table)
	}
	if table, _ := u.run("cache", "du"); strings.Count(table, "\n") != 8 || !strings.Contains(table, "20.0 GiB allowed") {
		t.Errorf("du prints %s", table)
	}
}

func TestTheDoctorSeesACacheThatIsOverItsLimits(t *testing.T) {
	u := newUser(t)
	u.cat("before")
	for _, tt := range []struct {
		flags cacheFlags
		state machine.State
	}{
		{cacheFlags{size: 1 << 30}, machine.OK},
		{cacheFlags{size: 1 << 20}, machine.Warning},
		{cacheFlags{free: 1 << 60}, machine.Warning},
	} {
		tt.flags.dir = u.cacheDir()
		d := &doctor{app: &app{log: slog.New(slog.DiscardHandler)}, machine: machine.Machine{UID: os.Getuid()}, cache: tt.flags}
		if f := d.checkCache(); f.State != tt.state || (f.Fix == "imgfs cache gc") != (tt.state == machine.Warning) {
			t.Errorf("with the limits %+v it finds %+v", tt.flags, f)
		}
	}
}
