package fs

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPathsFailAsOnAnyFileSystem(t *testing.T) {
	b := sample()
	tree := b.tree(t)
	s := mounted(t, tree, nil)
	for _, tc := range []struct {
		path string
		want error
	}{
		{"/none", unix.ENOENT},
		{"/none/x", unix.ENOENT},
		{"/etc/hostname/", unix.ENOTDIR},
		{"/etc/hostname/x", unix.ENOTDIR},
		{"/etc/hostname/..", unix.ENOTDIR},
		{"/dangling", unix.ENOENT},
		{"/link", nil},
		{"/link/", unix.ENOTDIR},
		{"/tmp/../etc/./hostname", nil},
		{"/" + strings.Repeat("n", 255), nil},
		{"/" + strings.Repeat("n", 256), unix.ENAMETOOLONG},
		{"/" + strings.Repeat("n", 1024), unix.ENAMETOOLONG},
		{"/" + strings.Repeat("x/", 2047), unix.ENAMETOOLONG},
		{"/.", nil},
		{"/..", nil},
	} {
		var st unix.Stat_t
		for range 2 { // the second time from the kernel's cache
			if err := unix.Stat(s.Dir()+tc.path, &st); err != tc.want {
				t.Errorf("%.40s: %v, want %v", tc.path, err, tc.want)
			}
		}
	}
}

func TestFileOffsetsBehaveAsOnAnyFileSystem(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	fd, err := unix.Open(s.Dir()+"/big", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, tc := range []struct {
		off    int64
		whence int
		want   int64
		err    error
	}{
		{0, unix.SEEK_END, bigSize, nil},
		{1 << 40, unix.SEEK_SET, 1 << 40, nil},
		{-1, unix.SEEK_SET, -1, unix.EINVAL},
		{0, unix.SEEK_DATA, 0, nil},
		{0, unix.SEEK_HOLE, bigSize, nil},
		{bigSize, unix.SEEK_DATA, -1, unix.ENXIO},
	} {
		if got, err := unix.Seek(fd, tc.off, tc.whence); got != tc.want || err != tc.err {
			t.Errorf("seek to %d, %d: %d, %v, want %d, %v", tc.off, tc.whence, got, err, tc.want, tc.err)
		}
	}
	buf := make([]byte, 100)
	for off, want := range map[int64]int{bigSize - 1: 1, bigSize: 0, bigSize + 4096: 0, 1 << 60: 0} {
		if n, err := unix.Pread(fd, buf, off); n != want || err != nil {
			t.Errorf("read at %d: %d, %v, want %d", off, n, err, want)
		}
	}
}

func TestSendfileCopiesOutOfTheMount(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	fd, err := unix.Open(s.Dir()+"/big", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	out, err := os.CreateTemp(publicDir(t), "copy")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for copied := 0; copied < bigSize; {
		n, err := unix.Sendfile(int(out.Fd()), fd, nil, bigSize)
		if err != nil || n == 0 {
			t.Fatalf("after %d bytes: %d, %v", copied, n, err)
		}
		copied += n
	}
	if got, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(got, []byte(noise(bigSize))) {
		t.Errorf("the copy differs: %v", err)
	}
}

func TestXattrsFollowTheManualPagesThroughTheKernel(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	path := s.Dir() + "/xattrs"
	size := func(n int, err error) string { return fmt.Sprint(n, " ", err) }
	small, large := make([]byte, 2), make([]byte, 10_000)
	for _, tc := range []struct{ what, got, want string }{
		{"size of a value", size(unix.Getxattr(path, "user.binary", nil)), "3 <nil>"},
		{"a value", size(unix.Getxattr(path, "user.binary", large)), "3 <nil>"},
		{"an empty value", size(unix.Getxattr(path, "user.empty", large)), "0 <nil>"},
		{"a large value", size(unix.Getxattr(path, "user.large", large)), "5000 <nil>"},
		{"a small buffer", size(unix.Getxattr(path, "user.binary", small)), size(-1, unix.ERANGE)},
		{"an unknown name", size(unix.Getxattr(path, "user.none", large)), size(-1, unix.ENODATA)},
		{"a label", size(unix.Getxattr(path, "security.selinux", large)), size(-1, unix.ENODATA)},
		{"an ACL that is not there", size(unix.Getxattr(path, "system.posix_acl_access", large)), size(-1, unix.ENODATA)},
		{"size of the list", size(unix.Listxattr(path, nil)), "54 <nil>"},
		{"a small buffer for the list", size(unix.Listxattr(path, small)), size(-1, unix.ERANGE)},
		{"a capability", size(unix.Getxattr(path, "security.capability", large)), "20 <nil>"},
		{"the ACL", size(unix.Getxattr(s.Dir()+"/acl", "system.posix_acl_access", large)), fmt.Sprint(len(acl), " <nil>")},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %s, want %s", tc.what, tc.got, tc.want)
		}
	}
}
