package upper

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

var (
	oneImage     = digest.FromString("one image")
	anotherImage = digest.FromString("another image")
)

// opened opens an upper for the rest of the test.
func opened(t *testing.T, path string, o *Options) *Dir {
	t.Helper()
	d, err := Open(path, o)
	must(t, err)
	t.Cleanup(d.Close)
	return d
}

// refused checks that an upper can't be opened, for a reason that says all the words.
func refused(t *testing.T, path string, o *Options, is error, words ...string) {
	t.Helper()
	d, err := Open(path, o)
	if err == nil {
		d.Close()
		t.Errorf("%s is opened with %+v", path, o)
		return
	}
	if !errors.Is(err, ErrUnusable) || is != nil && !errors.Is(err, is) {
		t.Errorf("%s: %v, want %v", path, err, is)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestAnUpperIsMadeWhereItIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "up")
	for range 2 {
		d, err := Open(path, &Options{Image: oneImage})
		must(t, err)
		if d.Mode != thisMode() || !d.DeviceWhiteouts || d.Path != path || d.WorkPath != path+".work" {
			t.Errorf("opened %+v", d)
		}
		must(t, d.Clean())
		d.Close()
	}
	names, err := filepath.Glob(path + "*/*")
	if err != nil || len(names) != 1 || names[0] != path+".work/work" {
		t.Errorf("there are %q, %v", names, err)
	}
}

func TestADirectoryWithFilesIsAnUpper(t *testing.T) {
	path := t.TempDir()
	must(t, os.WriteFile(path+"/file", nil, 0o600))
	opened(t, path, &Options{Image: oneImage})
}

func TestASecondMountOfAnUpperIsRefused(t *testing.T) {
	base := t.TempDir()
	first := opened(t, base+"/up", &Options{Image: oneImage})
	refused(t, base+"/up", &Options{Image: oneImage, Work: base + "/other.work"}, unix.EBUSY, base+"/up: another mount uses it")
	refused(t, base+"/other", &Options{Image: oneImage, Work: base + "/up.work"}, unix.EBUSY, base+"/up.work: another mount uses it")
	first.Close()
	opened(t, base+"/up", &Options{Image: oneImage})
}

func TestDirectoriesHaveToBeApart(t *testing.T) {
	base := t.TempDir()
	in := func(name string) string { return filepath.Join(base, name) }
	must(t, os.MkdirAll(in("up/mnt"), 0o755), os.MkdirAll(in("work/mnt"), 0o755), os.MkdirAll(in("mnt/up"), 0o755), os.Mkdir(in("mnt/work"), 0o755),
		os.Symlink("up/mnt", in("link")))
	for _, test := range []struct{ up, work, mnt, says string }{
		{"up", "up", "", "the upper is in the work directory"},
		{"up", "up/work", "", "the work directory is in the upper"},
		{"work/up", "work", "", "the upper is in the work directory"},
		{"up", "work", "up", "the upper is in the mountpoint"},
		{"up", "work", "up/mnt", "the mountpoint is in the upper"},
		{"up", "work", "link", "the mountpoint is in the upper"},
		{"up", "work", "work", "the work directory is in the mountpoint"},
		{"up", "work", "work/mnt", "the mountpoint is in the work directory"},
		{"mnt/up", "work", "mnt", "the upper is in the mountpoint"},
		{"up", "mnt/work", "mnt", "the work directory is in the mountpoint"},
	} {
		o := &Options{Image: oneImage, Work: in(test.work)}
		if test.mnt != "" {
			o.Mountpoint = in(test.mnt)
		}
		refused(t, in(test.up), o, unix.EINVAL, test.says)
	}
	opened(t, in("up"), &Options{Image: oneImage, Work: in("work"), Mountpoint: in("mnt")})
}

func TestAWorkDirectoryOnAnotherFileSystemIsRefused(t *testing.T) {
	work, err := os.MkdirTemp(os.Getenv(plainVariable), "")
	must(t, err)
	refused(t, t.TempDir(), &Options{Image: oneImage, Work: work}, unix.EXDEV, "another file system", "--work")
}

func TestAFileSystemWithoutAttributesIsRefused(t *testing.T) {
	base, err := os.MkdirTemp(os.Getenv(plainVariable), "")
	must(t, err)
	refused(t, base+"/up", &Options{Image: oneImage}, unix.ENOTSUP, "ramfs", "extended attributes")
	refused(t, base+"/up", &Options{Image: oneImage}, unix.ENOTSUP) // and not because it is locked
}

func TestAnUpperOfAnotherImageIsRefused(t *testing.T) {
	path := t.TempDir()
	opened(t, path, &Options{Image: oneImage}).Close()
	refused(t, path, &Options{Image: anotherImage}, nil, oneImage.String(), anotherImage.String(), "--force")
	opened(t, path, &Options{Image: oneImage}).Close()

	var log bytes.Buffer
	forced := &Options{Image: anotherImage, Force: true, Log: slog.New(slog.NewTextHandler(&log, nil))}
	opened(t, path, forced).Close()
	if s := log.String(); !strings.Contains(s, oneImage.String()) || !strings.Contains(s, anotherImage.String()) {
		t.Errorf("the log says %q", s)
	}
	opened(t, path, &Options{Image: anotherImage}).Close()
}

func TestAnUpperTellsWhatItWasMountedWith(t *testing.T) {
	path := t.TempDir()
	if r, err := ReadRecord(path); !errors.Is(err, ErrNoRecord) || !errors.Is(err, ErrUnusable) {
		t.Errorf("of no upper: %+v, %v", r, err)
	}
	d := opened(t, path, &Options{Image: oneImage, Reference: "a name with spaces"})
	if r, err := ReadRecord(path); r != (Record{oneImage, thisMode(), "a name with spaces"}) || err != nil {
		t.Errorf("read %+v, %v", r, err)
	}
	d.Close()
	opened(t, path, &Options{Image: oneImage, Reference: strings.Repeat("n", 5000)}).Close()
	if r, err := ReadRecord(path); r != (Record{oneImage, thisMode(), ""}) || err != nil {
		t.Errorf("read %+v, %v", r, err)
	}
	for _, text := range []string{"", oneImage.String(), "sha256:0 trusted x", oneImage.String() + " other x", strings.Repeat("x", 3000)} {
		must(t, unix.Setxattr(path, thisMode().Prefix()+recordAttr, []byte(text), 0))
		if r, err := ReadRecord(path); err == nil {
			t.Errorf("%.100q reads as %+v", text, r)
		}
		refused(t, path, &Options{Image: oneImage}, nil, "can't be read")
	}
}

func TestAnUpperOfAnotherModeIsRefused(t *testing.T) {
	path := t.TempDir()
	other := Namespaced
	if thisMode() == Namespaced {
		other = Recorded
	}
	must(t, unix.Setxattr(path, other.Prefix()+recordAttr, []byte(oneImage.String()+" "+other.String()+" name"), 0))
	refused(t, path, &Options{Image: oneImage}, nil, other.by(), thisMode().by())
	opened(t, path, &Options{Image: oneImage, Force: true})
}

func TestWhatIsInThePlaceOfADirectoryIsNotFollowed(t *testing.T) {
	for name, plant := range map[string]func(path string) error{
		"a link":      func(path string) error { return os.Symlink(t.TempDir(), path) },
		"a FIFO":      mkfifo,
		"a file":      func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"a link away": func(path string) error { return os.Symlink("/none", path) },
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			must(t, os.Mkdir(base+"/up.work", 0o755), plant(base+"/up.work/work"))
			refused(t, base+"/up", &Options{Image: oneImage}, nil, "work")
			must(t, plant(base+"/other"))
			if name != "a link" { // which the user may name
				refused(t, base+"/other", &Options{Image: oneImage}, nil, base+"/other")
			}
		})
	}
}

func TestWhatIsLeftInTheWorkDirectoryIsRemoved(t *testing.T) {
	base := t.TempDir()
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/precious", nil, 0o600))
	work := base + "/up.work/work"
	long := strings.Repeat("n", 255)
	must(t, os.MkdirAll(work+"/a/b/c", 0o700), os.Symlink(outside, work+"/link"), os.Symlink(outside, work+"/a/link"), mkfifo(work+"/a/fifo"),
		os.WriteFile(work+"/a/b/"+long, nil, 0), os.Mkdir(work+"/"+long, 0), os.Mkdir(work+"/imgfs-1", 0o700), os.WriteFile(work+"/imgfs-1/x", nil, 0o600),
		unix.Mknod(work+"/a/b/c/whiteout", unix.S_IFCHR, 0), deepTree(work, 1500), os.WriteFile(work+"/"+probe, nil, 0o600))
	must(t, os.Chmod(work+"/a/b/c", 0), os.Chmod(work+"/a/b", 0), os.Chmod(work, 0))
	d := opened(t, base+"/up", &Options{Image: oneImage})
	must(t, d.Clean())
	if names, err := os.ReadDir(work); len(names) > 0 || err != nil {
		t.Errorf("there are %v, %v", names, err)
	}
	if _, err := os.Stat(outside + "/precious"); err != nil {
		t.Error(err)
	}
}

// deepTree makes directories in each other, longer than a path can be.
func deepTree(path string, depth int) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	for ; err == nil && depth > 0; depth-- {
		if err = unix.Mkdirat(fd, "deep", 0o700); err == nil {
			var next int
			next, err = unix.Openat(fd, "deep", unix.O_PATH|unix.O_DIRECTORY, 0)
			unix.Close(fd)
			fd = next
		}
	}
	unix.Close(fd)
	return err
}

func TestAWhiteoutIsOneInEitherForm(t *testing.T) {
	d := opened(t, t.TempDir(), &Options{Image: oneImage})
	is := func(name string) bool {
		in, err := d.Mode.opacityOf(d.Upper)
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Fstatat(d.Upper, name, &st, unix.AT_SYMLINK_NOFOLLOW))
		yes, err := d.Mode.isWhiteout(d.Upper, in, name, &st)
		must(t, err)
		return yes
	}
	must(t, d.makeWhiteout(d.Upper, "device"))
	d.DeviceWhiteouts = false
	must(t, d.makeWhiteout(d.Upper, "file"), os.WriteFile(d.Path+"/other", nil, 0o600))
	if !is("device") || is("file") || is("other") {
		t.Error("in a directory that is not marked, devices are whiteouts")
	}
	must(t, d.Mode.setOpaque(d.Upper, opaqueMaybe))
	if !is("device") || !is("file") || is("other") {
		t.Error("in one that is marked, files with the attribute are as well")
	}
	must(t, os.WriteFile(d.Path+"/file", []byte{'x'}, 0))
	if is("file") {
		t.Error("a file with content is none")
	}
	if err := d.makeWhiteout(d.Upper, "other"); !errors.Is(err, unix.EEXIST) {
		t.Errorf("over a file: %v", err)
	}
}

func TestOpaqueIsWhatAnyOfItsAttributesSays(t *testing.T) {
	d := opened(t, t.TempDir(), &Options{Image: oneImage})
	for _, attr := range d.Mode.opaqueNames() {
		for value, want := range map[string]opacity{opaqueYes: opaqueDir, opaqueMaybe: marked, "n": transparent, "": transparent} {
			must(t, unix.Fsetxattr(d.Upper, attr, []byte(value), 0))
			if got, err := d.Mode.opacityOf(d.Upper); got != want || err != nil {
				t.Errorf("%s is %q: %v, %v", attr, value, got, err)
			}
		}
		must(t, unix.Fremovexattr(d.Upper, attr))
	}
	if got, err := d.Mode.opacityOf(d.Upper); got != transparent || err != nil {
		t.Errorf("without: %v, %v", got, err)
	}
}
