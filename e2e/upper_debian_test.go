package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
	"imgfs/internal/kept"
)

// packages are installed into a mounted image, with what they need besides.
const packages = "git sqlite3 tcc libc6-dev hello"

// packageArchive is a directory with those packages, for an image whose list of packages is given.
func packageArchive(t *testing.T, status string) string {
	t.Helper()
	dir, err := kept.Dir("packages", fstest.MapFS{}, packages+status, func(work, out string) error {
		file := filepath.Join(work, "status")
		if err := os.WriteFile(file, []byte(status), 0o644); err != nil {
			return err
		}
		args := []string{"-q", "-y", "--no-install-recommends", "--download-only", "-o", "Dir::State::status=" + file,
			"-o", "Dir::Cache::archives=" + out, "-o", "APT::Sandbox::User=root", "install"}
		_, err := peer.Run(context.Background(), "apt-get", append(args, strings.Fields(packages)...)...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// work is what is done in the image, chrooted: packages are installed, and what is in them is used.
const work = `
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive GIT_CONFIG_COUNT=2 \
	GIT_CONFIG_KEY_0=user.name GIT_CONFIG_VALUE_0=Tester GIT_CONFIG_KEY_1=user.email GIT_CONFIG_VALUE_1=tester@example.org
dpkg -i /debs/*.deb >/dev/null
test "$(hello)" = "Hello, world!"
mkdir /srv/repository
cd /srv/repository
git init -q
cp -r /usr/share/perl5 /etc/init.d .
git add .
git commit -q -m one
mv init.d moved; echo changed >>moved/README; git add -A; git commit -q -m two
test -z "$(git status --porcelain)"
git gc -q
git fsck --strict 2>/dev/null
test "$(git log --oneline | wc -l)" = 2
sqlite3 /srv/db "pragma journal_mode=wal; create table t(a integer primary key, b text);" >/dev/null
for i in 1 2 3 4 5 6 7 8 9 10; do
	sqlite3 /srv/db "with recursive n(i) as (select 1 union all select i+1 from n where i<500) insert into t(b) select hex(randomblob(20)) from n;"
done
test "$(sqlite3 /srv/db "pragma integrity_check; select count(*) from t;" | tr '\n' ' ')" = "ok 5000 "
printf '#include <stdio.h>\nint main(){puts("built");return 0;}\n' >/srv/x.c
tcc -o /srv/x /srv/x.c
test "$(/srv/x)" = built
rm /etc/issue
rm -r /debs
`

// inside runs a script chrooted in a mount, as root of the host or of a user namespace, with the machine's devices.
func (h *host) inside(t *testing.T, mnt, script string) {
	t.Helper()
	args := []string{"--mount"}
	if h.uid == nobody {
		args = append(args, "--map-root-user")
	}
	enter := fmt.Sprintf("mount --rbind /dev %s/dev\nexec chroot %s /bin/sh -ec \"$0\"", mnt, mnt)
	cmd := h.other("unshare", append(args, "sh", "-ec", enter, script)...)
	if _, err := peer.RunCmd(cmd); err != nil {
		t.Error(err)
	}
}

func TestADistributionIsUsedInAMount(t *testing.T) {
	image := get(t, theImages).Full()[0]
	ref := inLayout(image)
	root := newHost(t)
	before := get(t, func() (treediff.Tree, error) { return treediff.Scan(root.mount(t, ref)) })
	debs := packageArchive(t, root.ok(t, "cat", ref+":/var/lib/dpkg/status"))
	kinds := append(slices.Clone(writables), writable{"user", "fuse", func(t testing.TB) *host {
		return newUserHost(t.(*testing.T), fuseForAll+"mknod -m 666 /dev/urandom c 1 9\n")
	}})
	for _, w := range kinds {
		t.Run(w.name, func(t *testing.T) {
			h := w.newHost(t)
			mnt := h.mountUpper(t, w, "oci:"+h.copyOf(t, image.Layout)+":"+image.Tag, "upper")
			if _, err := peer.RunCmd(h.other("cp", "-r", h.copyOf(t, debs), filepath.Join(mnt, "debs"))); err != nil {
				t.Fatal(err)
			}
			h.inside(t, mnt, work)
			if w.name == "fuse" || w.name == "kernel" {
				after, err := treediff.Scan(mnt)
				if err != nil {
					t.Fatal(err)
				}
				sameChanges(t, h.ok(t, "diff", mnt), before, after)
			}
			h.umount(t, mnt)
			changes := h.ok(t, "diff", h.path("upper"))
			for _, line := range []string{"C /srv\n", "A /srv/db\n", "A /usr/bin/git\n", "D /etc/issue\n", "C /var/lib/dpkg/status\n"} {
				if !strings.Contains("\n"+changes, "\n"+line) {
					t.Errorf("diff does not say %q", line)
				}
			}
		})
	}
	after := get(t, func() (treediff.Tree, error) { return treediff.Scan(root.mount(t, ref)) })
	if diffs := treediff.Diff(before, after, treediff.Blind{}); len(diffs) > 0 {
		t.Errorf("the image has changed: %s", treediff.Report(diffs))
	}
}

// sameChanges checks that diff tells of just what is different between two trees.
func sameChanges(t *testing.T, got string, before, after treediff.Tree) {
	t.Helper()
	want := make(map[string]bool)
	gone := ""
	for _, d := range treediff.Diff(before, after, treediff.Blind{DirTimes: true, DirNlink: true, HardLinks: true}) {
		path := "/" + d.Path
		switch {
		case d.Field != "path":
			want["C "+path] = true
		case d.A == "absent":
			want["A "+path] = true
		case gone == "" || !strings.HasPrefix(path, gone+"/"):
			gone = path
			want["D "+path] = true
		}
		for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
			if !want["A "+dir] {
				want["C "+dir] = true
			}
		}
	}
	for line := range strings.Lines(got) {
		line = strings.TrimSuffix(line, "\n")
		if !want[line] {
			t.Errorf("diff says %q, and it is the same", line)
		}
		delete(want, line)
	}
	for line := range want {
		t.Errorf("diff does not say %q", line)
	}
}

// copyOf copies a directory to the host, for its user.
func (h *host) copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(h.mkdir(t), filepath.Base(dir))
	if _, err := peer.Run(timeLimit(t), "cp", "-r", "--reflink=auto", dir, to); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Run(timeLimit(t), "chown", "-R", fmt.Sprint(h.uid), to); err != nil {
		t.Fatal(err)
	}
	return to
}
