package upper

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAStatReadsAsItWasWritten(t *testing.T) {
	for _, s := range []Stat{
		{Mode: unix.S_IFDIR | 0o1777}, {Mode: unix.S_IFREG | 0o4755, UID: 1, GID: 1<<32 - 2}, {Mode: unix.S_IFLNK | 0o777},
		{Mode: unix.S_IFIFO | 0o600}, {Mode: unix.S_IFSOCK}, {Mode: unix.S_IFBLK | 0o660, Major: 8, Minor: 1 << 19},
		{Mode: unix.S_IFCHR | 0o666, GID: 5, Major: 1, Minor: 3},
	} {
		kind := uint32(unix.S_IFREG)
		if s.Mode&unix.S_IFMT == unix.S_IFDIR {
			kind = unix.S_IFDIR
		}
		if got, err := ParseStat(s.String(), kind); got != s || err != nil {
			t.Errorf("%q reads as %+v, %v", s, got, err)
		}
	}
}

func TestStatsThatOthersWriteAreRead(t *testing.T) {
	for _, test := range []struct {
		by, value string
		kind      uint32
		want      Stat
	}{
		{"containers/storage", "0:42:2755:dir", unix.S_IFDIR, Stat{Mode: unix.S_IFDIR | 0o2755, GID: 42}},
		{"containers/storage", "0:5:0620:char-5-1", unix.S_IFREG, Stat{Mode: unix.S_IFCHR | 0o620, GID: 5, Major: 5, Minor: 1}},
		{"containers/storage before types", "1:2:0755", unix.S_IFREG, Stat{Mode: unix.S_IFREG | 0o755, UID: 1, GID: 2}},
		{"fuse-overlayfs 1.10", "0:0:100644", unix.S_IFREG, Stat{Mode: unix.S_IFREG | 0o644}},
		{"fuse-overlayfs 1.10", "0:0:40755", unix.S_IFDIR, Stat{Mode: unix.S_IFDIR | 0o755}},
	} {
		if got, err := ParseStat(test.value, test.kind); got != test.want || err != nil {
			t.Errorf("%s: %q reads as %+v, %v", test.by, test.value, got, err)
		}
	}
}

func TestStatsThatAreNoneAreErrors(t *testing.T) {
	for _, value := range []string{
		"", "0", "0:0", "0:0:", "0:0:9", "0:0:0644:", "0:0:0644:door", "0:0:0644:char", "0:0:0644:char-1", "0:0:0644:char-1-2-3",
		"0:0:0644:file-1-2", "-1:0:0644:file", "0:4294967295:0644:file", "0:4294967296:0644:file", "0:0:0644:file:", " 0:0:0644:file",
		"0:0:0755:dir", strings.Repeat("0", 1000) + "x:0:0",
	} {
		if got, err := ParseStat(value, unix.S_IFREG); err == nil {
			t.Errorf("%.40q reads as %+v", value, got)
		} else if len(err.Error()) > 200 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
	if got, err := ParseStat("0:0:0644:file", unix.S_IFDIR); err == nil {
		t.Errorf("a directory is %+v", got)
	}
}

func TestAttributesAreStoredUnderNamesThatComeBack(t *testing.T) {
	for _, m := range []Mode{Trusted, Namespaced, Recorded} {
		for _, name := range []string{
			"user.x", "user.overlay.opaque", "user.overlay.overlay.opaque", "trusted.overlay.opaque", "trusted.overlay.overlay.x", "trusted.x",
			"security.capability", "system.posix_acl_access", "user.containers.override_stat", "user.containers.override_security.capability",
			"user.containers.other", "user.fuseoverlayfs.opaque",
		} {
			stored, ok := m.Stored(name)
			if !ok {
				t.Errorf("%v: %s can't be stored", m, name)
			}
			if got, visible := m.Shown(stored); got != name || !visible {
				t.Errorf("%v: %s is stored as %s and shown as %s, %v", m, name, stored, got, visible)
			}
			for _, private := range []string{m.Prefix() + opaque, m.Prefix() + whiteout, m.Prefix() + recordAttr} {
				if stored == private {
					t.Errorf("%v: %s is stored as %s, which is private", m, name, stored)
				}
			}
			if m == Recorded && stored == statAttr {
				t.Errorf("%s is stored as %s", name, stored)
			}
		}
		for _, private := range []string{opaque, whiteout, "origin", "redirect", "metacopy", recordAttr} {
			if name, visible := m.Shown(m.Prefix() + private); visible {
				t.Errorf("%v: private %s is shown as %s", m, private, name)
			}
		}
	}
	for _, private := range []string{statAttr, recordPrefix + "user.x", "user.fuseoverlayfs.opaque", "security.selinux"} {
		if name, visible := Recorded.Shown(private); visible {
			t.Errorf("%s is shown as %s", private, name)
		}
	}
}

func TestANameTooLongToBeStoredIsNotStored(t *testing.T) {
	name := "security." + strings.Repeat("x", maxXattrName-len("security."))
	if _, ok := Trusted.Stored(name); !ok {
		t.Error("255 bytes are too many")
	}
	if stored, ok := Recorded.Stored(name); ok {
		t.Errorf("%d bytes are not too many", len(stored))
	}
}
