package layers_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	. "imgfs/internal/testimage"
)

func diskList(t *testing.T, root string) map[string]listed {
	all := map[string]listed{}
	first := map[uint64]string{}
	filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Log(err)
			return nil
		}
		var st syscall.Stat_t
		syscall.Lstat(p, &st)
		rel := strings.TrimPrefix(p, root)
		if rel == "" {
			rel = "/"
		}
		if f := first[st.Ino]; f == "" || rel < f {
			first[st.Ino] = rel
		}
		l := listed{Ino: st.Ino, Mode: st.Mode, Owner: fmt.Sprintf("%d:%d", st.Uid, st.Gid),
			Mtime: fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec), Size: uint64(st.Size), Nlink: uint32(st.Nlink),
			Device: fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))}
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFLNK:
			l.Target, _ = os.Readlink(p)
		case syscall.S_IFDIR:
			l.Size = 4096
			l.Mtime = ""
		case syscall.S_IFREG:
			b, _ := os.ReadFile(p)
			l.Sum = fmt.Sprintf("%x", sha256.Sum256(b))
		}
		buf := make([]byte, 4096)
		n, _ := unix.Llistxattr(p, buf)
		var names []string
		if n > 0 {
			names = strings.Split(strings.Trim(string(buf[:n]), "\x00"), "\x00")
		}
		slices.Sort(names)
		for _, x := range names {
			v := make([]byte, 4096)
			m, _ := unix.Lgetxattr(p, x, v)
			l.Xattrs += fmt.Sprintf("%q=%q ", x, v[:max(m, 0)])
		}
		all[rel] = l
		return nil
	})
	for p, l := range all {
		l.Group = first[l.Ino]
		l.Ino = 0
		all[p] = l
	}
	return all
}

var out, _ = os.Create("/tmp/tt/peers.txt")

func peers(t *testing.T, in [][]byte, r result) {
	if os.Getenv("PEERS") == "" {
		return
	}
	dir := t.TempDir()
	im := Image{}
	for _, l := range in {
		im.Layers = append(im.Layers, NewLayer(Gzip(l), l))
	}
	if err := WriteLayout(dir+"/oci", Tagged{Tag: "x", Bundle: im.Bundle()}); err != nil {
		t.Fatal(err)
	}
	var ours map[string]listed
	if r.err == nil {
		ours = listing(t, r.tree)
		for p, l := range ours {
			l.Ino, l.Blocks, l.Layer = 0, 0, 0
			if l.Mode&syscall.S_IFMT == syscall.S_IFDIR {
				l.Mtime = ""
			}
			ours[p] = l
		}
	}
	delete(ours, "/")
	report := func(peer string, theirs map[string]listed, err error) {
		if (err == nil) != (r.err == nil) {
			fmt.Fprintf(out, "== %s: %s: ours %.200v, theirs %.600v\n", t.Name(), peer, r.err, err)
			return
		}
		if err == nil {
			delete(theirs, "/")
			if d := cmp.Diff(ours, theirs); d != "" {
				if len(d) > 3000 {
					d = d[:3000]
				}
				fmt.Fprintf(out, "== %s: %s: (-ours +theirs)\n%s\n", t.Name(), peer, d)
			}
		}
	}
	if os.Getenv("PEERS") == "umoci" {
		b, err := exec.Command("umoci", "unpack", "--image", dir+"/oci:x", dir+"/bundle").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s", b[max(0, len(b)-500):])
		}
		report("umoci", diskList(t, dir+"/bundle/rootfs"), err)
		return
	}
	ctr := func(args ...string) ([]byte, error) {
		return exec.Command("ctr", append([]string{"-a", "/tmp/tt/cd/sock", "--namespace", "t"}, args...)...).CombinedOutput()
	}
	if b, err := exec.Command("sh", "-c", "cd "+dir+"/oci && tar cf ../im.tar .").CombinedOutput(); err != nil {
		t.Fatal(string(b))
	}
	name := "x.io/" + fmt.Sprintf("%x", sha256.Sum256([]byte(t.Name())))[:12]
	b, err := ctr("images", "import", "--snapshotter", "native", "--base-name", name, dir+"/im.tar")
	if err != nil {
		report("containerd", nil, fmt.Errorf("%s", b))
		return
	}
	os.Mkdir(dir+"/mnt", 0o755)
	b, err = ctr("images", "mount", "--snapshotter", "native", "--rw", name+":x", dir+"/mnt")
	if err != nil {
		report("containerd", nil, fmt.Errorf("%s", b))
		return
	}
	defer exec.Command("umount", dir+"/mnt").Run()
	report("containerd", diskList(t, dir+"/mnt"), nil)
}
