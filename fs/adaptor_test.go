package fs

import (
	"log/slog"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func TestAnAbsentNameIsAnAnswerTheKernelMayKeep(t *testing.T) {
	a := newAdaptor(sample().tree(t), slog.Default())
	var out fuse.EntryOut
	status := a.Lookup(nil, &fuse.InHeader{NodeId: rootID}, "absent", &out)
	if !status.Ok() || out.NodeId != 0 || out.EntryValid != forever {
		t.Errorf("status %v, %+v", status, out)
	}
}

func TestWhatTheKernelDoesByItselfDependsOnTheKernel(t *testing.T) {
	a := newAdaptor(sample().tree(t), slog.Default())
	opens := func() (file, dir fuse.Status, fileFlags, dirFlags uint32) {
		var f, d fuse.OpenOut
		file = a.Open(nil, &fuse.OpenIn{}, &f)
		dir = a.OpenDir(nil, &fuse.OpenIn{}, &d)
		return file, dir, f.OpenFlags, d.OpenFlags
	}
	if file, dir, fileFlags, dirFlags := opens(); !file.Ok() || !dir.Ok() ||
		fileFlags != fuse.FOPEN_KEEP_CACHE || dirFlags != fuse.FOPEN_KEEP_CACHE|fuse.FOPEN_CACHE_DIR {
		t.Errorf("an old kernel: %v %#x, %v %#x", file, fileFlags, dir, dirFlags)
	}
	a.noOpen, a.noOpenDir = true, true
	if file, dir, _, _ := opens(); file != fuse.ENOSYS || dir != fuse.ENOSYS {
		t.Errorf("a new kernel: %v, %v", file, dir)
	}
}

func TestAccessIsRefusedForWriting(t *testing.T) {
	a := newAdaptor(sample().tree(t), slog.Default())
	for mask, want := range map[uint32]fuse.Status{
		fuse.F_OK: fuse.OK, fuse.R_OK | fuse.X_OK: fuse.OK, fuse.W_OK: fuse.EROFS, fuse.R_OK | fuse.W_OK: fuse.EROFS,
	} {
		if got := a.Access(nil, &fuse.AccessIn{Mask: mask}); got != want {
			t.Errorf("mask %d: %v, want %v", mask, got, want)
		}
	}
}

// hot are the requests that there are most of.
func hot(t testing.TB) map[string]func() {
	b := sample()
	tree := b.treeOver(t, newHolder(b, 1<<20))
	a := newAdaptor(tree, slog.Default())
	many := fuse.InHeader{NodeId: id(t, tree, "/many")}
	big := fuse.InHeader{NodeId: id(t, tree, "/big")}
	var entry fuse.EntryOut
	var attr fuse.AttrOut
	buf := make([]byte, 128<<10)
	getAttr := &fuse.GetAttrIn{InHeader: big}
	sparse := fuse.InHeader{NodeId: id(t, tree, "/sparse")}
	held := &fuse.ReadIn{InHeader: big, Size: uint32(len(buf)), Offset: 1<<20 - 64<<10}
	copied := &fuse.ReadIn{InHeader: sparse, Size: uint32(len(buf))}
	read := func(in *fuse.ReadIn) {
		reply, _ := a.Read(nil, in, buf)
		reply.(*readReply).Slices()
		reply.Done()
	}
	listing := &fuse.ReadIn{InHeader: many}
	list := fuse.NewDirEntryList(buf, 0)
	empty := *list
	return map[string]func(){
		"Lookup":       func() { a.Lookup(nil, &many, "0500", &entry) },
		"LookupAbsent": func() { a.Lookup(nil, &many, "absent", &entry) },
		"GetAttr":      func() { a.GetAttr(nil, getAttr, &attr) },
		"ReadDirPlus":  func() { *list = empty; a.ReadDirPlus(nil, listing, list) },
		"ReadDir":      func() { *list = empty; a.ReadDir(nil, listing, list) },
		"Read":         func() { read(held) },
		"ReadCopied":   func() { read(copied) },
	}
}

func TestRequestsAllocateNothing(t *testing.T) {
	for name, request := range hot(t) {
		if n := testing.AllocsPerRun(100, request); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func BenchmarkRequests(b *testing.B) {
	for name, request := range hot(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				request()
			}
		})
	}
}
