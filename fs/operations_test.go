package fs

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLookupFindsWhatTheTreeHas(t *testing.T) {
	tree := sample().tree(t)
	o := operations{tree}
	for _, tc := range []struct {
		dir, name string
		want      string // path
		errno     syscall.Errno
	}{
		{dir: "/", name: "etc", want: "/etc"},
		{dir: "/etc", name: "hostname", want: "/etc/hostname"},
		{dir: "/tmp", name: "hard", want: "/etc/hostname"}, // one inode
		{dir: "/etc", name: ".", want: "/etc"},
		{dir: "/tmp/nothing", name: "..", want: "/tmp"},
		{dir: "/", name: "..", want: "/"},
		{dir: "/", name: "absent", errno: syscall.ENOENT},
		{dir: "/", name: "", errno: syscall.ENOENT},
		{dir: "/", name: strings.Repeat("n", 255), want: "/" + strings.Repeat("n", 255)},
		{dir: "/", name: strings.Repeat("n", 256), errno: syscall.ENAMETOOLONG},
		{dir: "/empty", name: "x", errno: syscall.ENOENT},
	} {
		attr, errno := o.lookup(id(t, tree, tc.dir), tc.name)
		if errno != tc.errno {
			t.Errorf("lookup of %q in %s: %v, want %v", tc.name, tc.dir, errno, tc.errno)
		} else if errno == 0 && attr.Ino != id(t, tree, tc.want) {
			t.Errorf("lookup of %q in %s: inode %d, want that of %s", tc.name, tc.dir, attr.Ino, tc.want)
		}
	}
}

func TestNodeIDsOfAnotherImageAreStale(t *testing.T) {
	tree := sample().tree(t)
	o := operations{tree}
	for _, id := range []uint64{0, uint64(tree.Len()) + 1, 1 << 32, 1<<32 + 1, ^uint64(0)} {
		_, lookup := o.lookup(id, "etc")
		_, attr := o.attr(id)
		_, readlink := o.readlink(id)
		_, list := o.list(id)
		_, getxattr := o.getxattr(id, "user.x", nil)
		_, listxattr := o.listxattr(id, nil)
		_, _, read := o.read(id, make([]byte, 1), 0, nil)
		for op, err := range map[string]error{
			"lookup": lookup, "attr": attr, "readlink": readlink, "list": list,
			"getxattr": getxattr, "listxattr": listxattr, "read": read,
		} {
			if err != syscall.ESTALE {
				t.Errorf("%s of node %d: %v, want ESTALE", op, id, err)
			}
		}
	}
}

func TestAListingCanBeReadFromAnyPosition(t *testing.T) {
	tree := sample().tree(t)
	o := operations{tree}
	want := append([]string{".", ".."}, names(tree, find(t, tree, "/many"))...)
	l, errno := o.list(id(t, tree, "/many"))
	if errno != 0 {
		t.Fatal(errno)
	}
	for start := range len(want) + 2 {
		var got []string
		pos := uint64(start)
		for e, ok := l.at(pos); ok; e, ok = l.at(pos) {
			if e.next != pos+1 {
				t.Fatalf("after position %d comes %d", pos, e.next)
			}
			got, pos = append(got, e.name), e.next
		}
		if diff := cmp.Diff(want[min(start, len(want)):], append([]string{}, got...)); diff != "" {
			t.Fatalf("from position %d (-want +got):\n%s", start, diff)
		}
	}
	if e, ok := l.at(^uint64(0)); ok {
		t.Errorf("the last position has an entry: %v", e)
	}
}

func TestDotsHaveTheInodesOfTheDirectoryAndItsParent(t *testing.T) {
	tree := sample().tree(t)
	o := operations{tree}
	for _, tc := range [][3]string{{"/tmp/nothing", "/tmp/nothing", "/tmp"}, {"/", "/", "/"}} {
		l, _ := o.list(id(t, tree, tc[0]))
		dot, _ := l.at(0)
		dotdot, _ := l.at(1)
		if dot.attr.Ino != id(t, tree, tc[1]) || dotdot.attr.Ino != id(t, tree, tc[2]) || !dot.dot || !dotdot.dot {
			t.Errorf("%s: . is %d, .. is %d", tc[0], dot.attr.Ino, dotdot.attr.Ino)
		}
	}
}

func TestOperationsOnTheWrongTypeOfFile(t *testing.T) {
	tree := sample().tree(t)
	o := operations{tree}
	buf := make([]byte, 10)
	for what, tc := range map[string]struct{ got, want error }{
		"list of a file":          {second(o.list(id(t, tree, "/big"))), syscall.ENOTDIR},
		"readlink of a file":      {second(o.readlink(id(t, tree, "/big"))), syscall.EINVAL},
		"readlink of a directory": {second(o.readlink(id(t, tree, "/etc"))), syscall.EINVAL},
		"read of a directory":     {third(o.read(id(t, tree, "/etc"), buf, 0, nil)), syscall.EISDIR},
		"read of a FIFO":          {third(o.read(id(t, tree, "/fifo"), buf, 0, nil)), syscall.EINVAL},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %v, want %v", what, tc.got, tc.want)
		}
	}
}

func second[T any, E error](_ T, err E) error        { return err }
func third[T, U any, E error](_ T, _ U, err E) error { return err }

func TestReadIsShortOnlyAtTheEnd(t *testing.T) {
	tree := sample().tree(t)
	o := operations{tree}
	content := noise(bigSize)
	for _, tc := range []struct {
		off  uint64
		len  int
		want int
	}{
		{0, 10, 10}, {bigSize - 5, 10, 5}, {bigSize, 10, 0}, {bigSize + 1, 10, 0},
		{1 << 62, 10, 0}, {1 << 63, 10, 0}, {^uint64(0), 10, 0}, {0, 0, 0},
	} {
		buf := make([]byte, tc.len)
		n, _, err := o.read(id(t, tree, "/big"), buf, tc.off, nil)
		if n != tc.want || err != nil {
			t.Errorf("%d bytes at %d: %d, %v, want %d", tc.len, tc.off, n, err, tc.want)
		}
		if n > 0 && string(buf[:n]) != content[tc.off:tc.off+uint64(n)] {
			t.Errorf("%d bytes at %d: wrong bytes", tc.len, tc.off)
		}
	}
}

func TestXattrSizesFollowTheManualPages(t *testing.T) {
	tree := sample().tree(t)
	o := operations{tree}
	file := id(t, tree, "/xattrs")
	const list = "security.capability\x00user.binary\x00user.empty\x00user.large\x00"
	get := func(name string) func([]byte) (int, syscall.Errno) {
		return func(dst []byte) (int, syscall.Errno) { return o.getxattr(file, name, dst) }
	}
	listed := func(dst []byte) (int, syscall.Errno) { return o.listxattr(file, dst) }
	for _, tc := range []struct {
		name  string
		call  func([]byte) (int, syscall.Errno)
		space int
		want  string
		size  int
		errno syscall.Errno
	}{
		{"get, size", get("user.binary"), 0, "", 3, 0},
		{"get, exact", get("user.binary"), 3, "a\x00b", 3, 0},
		{"get, more", get("user.binary"), 100, "a\x00b", 3, 0},
		{"get, less", get("user.binary"), 2, "", 3, syscall.ERANGE},
		{"get, empty value", get("user.empty"), 10, "", 0, 0},
		{"get, unknown", get("user.nothing"), 10, "", 0, syscall.ENODATA},
		{"get, unknown, size", get("security.selinux"), 0, "", 0, syscall.ENODATA},
		{"get, odd namespace", get("nonsense"), 10, "", 0, syscall.ENODATA},
		{"list, size", listed, 0, "", len(list), 0},
		{"list, exact", listed, len(list), list, len(list), 0},
		{"list, less", listed, len(list) - 1, "", len(list), syscall.ERANGE},
		{"list, none", func(dst []byte) (int, syscall.Errno) { return o.listxattr(rootID, dst) }, 10, "", 0, 0},
	} {
		buf := make([]byte, tc.space)
		size, errno := tc.call(buf)
		if size != tc.size || errno != tc.errno {
			t.Errorf("%s: %d, %v, want %d, %v", tc.name, size, errno, tc.size, tc.errno)
		}
		if !strings.HasPrefix(string(buf), tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, buf, tc.want)
		}
	}
}

func TestErrorsBecomeErrnosByOneTable(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{syscall.ENOENT, syscall.ENOENT},
		{syscall.ENODATA, syscall.ENODATA},
		{syscall.EROFS, syscall.EROFS},
		{syscall.EINTR, syscall.EIO},
		{syscall.ENOSYS, syscall.EIO},
		{syscall.ENOTSUP, syscall.EIO},
		{fmt.Errorf("opening the cache: %w", syscall.ENOENT), syscall.EIO},
		{fmt.Errorf("fetching: %w", syscall.EINTR), syscall.EIO},
		{io.ErrUnexpectedEOF, syscall.EIO},
		{errors.New("anything"), syscall.EIO},
	} {
		if got := errnoOf(tc.err); got != tc.want {
			t.Errorf("%v: %v, want %v", tc.err, got, tc.want)
		}
	}
}

func TestDeviceNumbersAreEncodedAsTheProtocolHasThem(t *testing.T) {
	for _, tc := range []struct{ major, minor, want uint32 }{
		{0, 0, 0}, {1, 3, 0x103}, {8, 17, 0x811}, {0, 256, 0x100000},
		{4095, 1<<20 - 1, 0xffffffff}, {259, 1048575, 0xfff103ff},
		{4096 + 1, 1<<20 + 3, 0x103}, // more than Linux has
	} {
		if got := encodeDev(tc.major, tc.minor); got != tc.want {
			t.Errorf("%d:%d: %#x, want %#x", tc.major, tc.minor, got, tc.want)
		}
	}
}

func TestStatfsCountsInBlocks(t *testing.T) {
	b := new(builder)
	b.file("a", strings.Repeat("a", 5000))
	tree := b.tree(t)
	files, bytes := tree.Usage()
	want := statfs{blocks: (bytes + 4095) / 4096, files: files}
	if got := (operations{tree}).statfs(); got != want || bytes == 0 {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestOperationsAllocateNothing(t *testing.T) {
	tree := sample().tree(t)
	o := operations{tree}
	many, file, xattrs := id(t, tree, "/many"), id(t, tree, "/big"), id(t, tree, "/xattrs")
	buf := make([]byte, 64<<10)
	for name, op := range map[string]func(){
		"lookup":    func() { o.lookup(many, "0500") },
		"no lookup": func() { o.lookup(many, "absent") },
		"attr":      func() { o.attr(file) },
		"read":      func() { o.read(file, buf, 4096, nil) },
		"getxattr":  func() { o.getxattr(xattrs, "user.binary", buf) },
		"listxattr": func() { o.listxattr(xattrs, buf) },
		"statfs":    func() { o.statfs() },
		"list": func() {
			l, _ := o.list(many)
			for pos := range uint64(100) {
				l.at(pos)
			}
		},
	} {
		if n := testing.AllocsPerRun(100, op); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}
