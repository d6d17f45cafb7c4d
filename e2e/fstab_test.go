package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgfs/e2e/internal/peer"
)

// helpersInPlace is the script that has mount(8) find the program, as make
// install does: in /sbin, which gets a layer of its own for that.
func helpersInPlace() string {
	return fmt.Sprintf(`mount -t tmpfs scratch /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/usr/sbin,upperdir=/mnt/upper,workdir=/mnt/work overlay /usr/sbin
ln -s %[1]s /usr/sbin/mount.imgfs
ln -s %[1]s /usr/sbin/mount.fuse.imgfs
`, program())
}

// fstab writes the host's own fstab.
func (h *host) fstab(t *testing.T, lines ...string) string {
	t.Helper()
	name := h.path("fstab")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// system runs a program of the system, which must succeed.
func (h *host) system(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := peer.RunCmd(h.other(name, args...))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// sources are what findmnt says is mounted at the directories.
func (h *host) sources(t *testing.T, dirs ...string) []string {
	t.Helper()
	var found []string
	for _, dir := range dirs {
		cmd := h.other("findmnt", "--noheadings", "--output=SOURCE", "--mountpoint", dir)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		found = append(found, strings.TrimSuffix(string(out), "\n")) // "" where nothing is
	}
	return found
}

func TestFstabMountsImagesOfBothTypes(t *testing.T) {
	h := newHostIn(t, helpersInPlace(), 0)
	ref := inRegistry(get(t, theRegistry), get(t, theImages).PAXTar())
	one, two, three := h.mkdir(t), h.mkdir(t), h.mkdir(t)
	table := h.fstab(t,
		ref+" "+one+" imgfs platform=linux/amd64,_netdev,nofail,x-systemd.mount-timeout=infinity,comment=it 0 0",
		ref+" "+two+" fuse.imgfs ro,noatime,log_level=info,cache_dir="+h.cache()+" 0 0",
		ref+" "+three+" imgfs noauto,noexec,dev=true 0 0",
	)
	h.system(t, "mount", "--fstab", table, "--all")
	if got, want := h.sources(t, one, two, three), []string{ref, ref, ""}; !slices.Equal(got, want) {
		t.Errorf("mounted are %q, want %q", got, want)
	}
	h.system(t, "mount", "--fstab", table, "--all") // finds that all is done
	h.system(t, "mount", "--fstab", table, three)
	if got := h.system(t, "findmnt", "--noheadings", "--output=OPTIONS,FSTYPE", three); !strings.HasPrefix(got, "ro,nosuid,noexec,") || !strings.Contains(got, " fuse.imgfs") {
		t.Errorf("findmnt says %q", got)
	}
	for _, dir := range []string{one, two, three} {
		if s := h.state(t, dir); s == nil || !s.Alive || s.Stats == nil || s.Stats.Files == 0 {
			t.Errorf("ps says of %s: %+v", dir, s)
		}
		pid := h.state(t, dir).PID
		h.system(t, "umount", dir)
		if !waitExit(t, pid) {
			t.Errorf("the server of %s goes on", dir)
		}
	}
}

// mount(8) takes HOME and PATH away. At boot they are not there to begin with.
func TestFstabUsesTheCacheOfTheUserWhateverTheEnvironment(t *testing.T) {
	h := newHostIn(t, helpersInPlace()+"mount -t tmpfs -o mode=700 home /root\n", 0) // not the real one
	dir := h.mkdir(t)
	table := h.fstab(t, inRegistry(get(t, theRegistry), get(t, theImages).PAXTar())+" "+dir+" imgfs defaults 0 0")
	cmd := h.other("mount", "--fstab", table, "--all")
	cmd.Env = []string{"XDG_RUNTIME_DIR=" + h.path("run")} // by which the test finds the server
	if _, err := peer.RunCmd(cmd); err != nil {
		t.Fatal(err)
	}
	if got := h.system(t, "ls", "/root/.cache/imgfs/indexes"); strings.Count(got, "sha256-") != 3 {
		t.Errorf("in the cache there is\n%s", got)
	}
	h.umount(t, dir)
}

func TestMountTakesItsOptionsOnTheCommandLine(t *testing.T) {
	h, dir := newHostIn(t, helpersInPlace(), 0), t.TempDir()
	writeLayout(t, dir, tiny().Bundle())
	mnt := h.mkdir(t)
	h.system(t, "mount", "-t", "fuse.imgfs", "-o", "offline,ro", dir, mnt)
	if got := h.system(t, "cat", filepath.Join(mnt, "file")); got != "content" {
		t.Errorf("the file holds %q", got)
	}
	h.umount(t, mnt)
	for options, say := range map[string]string{
		"frobnicate": `mount option "frobnicate" is not known`, "platform=linux/s390x": "linux/amd64", "remount,ro": "remount",
	} {
		out, err := h.other("mount", "-t", "imgfs", "-o", options, dir, mnt).CombinedOutput()
		if err == nil || !strings.Contains(string(out), say) {
			t.Errorf("mount -o %s: %v, says %q, want %q", options, err, out, say)
		}
	}
}

// With the option user, mount(8) is set-user-ID and runs its helper as who called it.
func TestFstabLetsAUserMount(t *testing.T) {
	h := newUserHost(t, helpersInPlace()+fuseForAll)
	ref := inRegistry(get(t, theRegistry), get(t, theImages).PAXTar())
	dir := h.mkdir(t)
	table := h.fstab(t, ref+" "+dir+" imgfs noauto,user 0 0")
	h.system(t, "mount", "--fstab", table, dir)
	if got := h.system(t, "findmnt", "--noheadings", "--output=OPTIONS", dir); !strings.HasPrefix(got, "ro,nosuid,nodev,noexec,") {
		t.Errorf("the options are %q", got)
	}
	s := h.state(t, dir)
	if s == nil || !s.Alive {
		t.Fatalf("ps says %+v", s)
	}
	h.system(t, "umount", dir)
	if !waitExit(t, s.PID) {
		t.Error("the server goes on")
	}
}
