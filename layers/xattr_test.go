package layers_test

import (
	"fmt"
	"strings"
	"testing"

	"imgfs/index"
	. "imgfs/internal/testimage"
	"imgfs/layers"
)

// netRaw is what setcap cap_net_raw+ep stores.
const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func TestAttributesThatCantBeSetAreDropped(t *testing.T) {
	r := merge(t, indexed(t, stack(layer(
		File("f", "", Xattr("trusted.a", "1"), Xattr("nothing", "1"), Xattr("system.other", "1"), Xattr("user.", "1")),
		Symlink("s", "f", Xattr("user.a", "1"), Xattr("security.a", "1"))))))
	hasXattrs("f")(t, r)
	hasXattrs("s", index.Xattr{Name: "security.a", Value: "1"})(t, r)
	if len(r.warnings) != 5 {
		t.Errorf("warnings: %q", r.warnings)
	}
}

func TestCapabilitiesThatLinuxDoesNotTakeAreRejected(t *testing.T) {
	revision3 := netRaw[:3] + "\x03" + netRaw[4:]
	for name, test := range map[string]struct {
		value string
		valid bool
	}{
		"revision 2":                         {netRaw, true},
		"revision 2, not effective":          {"\x00" + netRaw[1:], true},
		"revision 2 with the length of 3":    {netRaw + "\x00\x00\x00\x00", false},
		"revision 3 with a user id":          {revision3 + "\xe8\x03\x00\x00", true},
		"revision 3 with what is no user id": {revision3 + "\xff\xff\xff\xff", false},
		"revision 3 with the length of 2":    {revision3, false},
		"revision 1, which is long gone":     {"\x00\x00\x00\x01" + netRaw[4:12], false},
		"a flag that there is not":           {"\x02" + netRaw[1:], false},
		"text":                               {"xyz", false},
		"nothing":                            {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, e := range []Entry{File("f", "", Xattr("security.capability", test.value)), Link("f", "t", Xattr("security.capability", test.value))} {
				r := mergeOnce(indexed(t, stack(layer(File("t", ""), e))))
				if !test.valid {
					rejects("f", "security.capability that Linux does not take")(t, r)
					continue
				}
				hasXattrs("f", index.Xattr{Name: "security.capability", Value: test.value})(t, r)
			}
		})
	}
}

// tags are those of ACLs by the letters that acl has for them.
var tags = map[byte]byte{'u': 0x01, 'U': 0x02, 'g': 0x04, 'G': 0x08, 'm': 0x10, 'o': 0x20, '?': 0x40, '3': 0x03}

// acl is the attribute of an ACL, of tags with their permissions: "u6 g4 o4". Users and groups get the id 1000.
func acl(text string) string {
	b := []byte("\x02\x00\x00\x00")
	for _, e := range strings.Fields(text) {
		id := "\xff\xff\xff\xff"
		if e[0] == 'U' || e[0] == 'G' {
			id = "\xe8\x03\x00\x00"
		}
		b = append(b, tags[e[0]], 0, e[1]-'0', 0)
		b = append(b, id...)
	}
	return string(b)
}

func TestACLsAgreeWithTheMode(t *testing.T) {
	const access, byDefault = "system.posix_acl_access", "system.posix_acl_default"
	for _, test := range []struct {
		name string
		in   [][]byte
		file string
		want string // the ACL for access, or none
	}{
		{"the mask is what the mode says of the group", stack(layer(File("f", "", Mode(0o751), Xattr(access, acl("u6 U7 g4 m7 o4"))))), "f", "u7 U7 g4 m5 o1"},
		{"a mask without users or groups", stack(layer(File("f", "", Mode(0o600), Xattr(access, acl("u6 g4 m7 o4"))))), "f", "u6 g4 m0 o0"},
		{"groups", stack(layer(Fifo("f", Mode(0o4777), Xattr(access, acl("u6 U1 U2 g4 G1 G2 m7 o4"))))), "f", "u7 U1 U2 g4 G1 G2 m7 o7"},
		{"one that says no more than the mode", stack(layer(File("f", "", Mode(0o640), Xattr(access, acl("u7 g7 o7"))))), "f", ""},
		{"of a directory", stack(layer(Dir("f/", Mode(0o700), Xattr(access, acl("u7 U7 g7 m7 o7"))))), "f", "u7 U7 g7 m0 o0"},
		{"a hard link's mode is the file's", stack(layer(File("f", "", Mode(0o666), Xattr(access, acl("u6 U7 g4 m7 o4"))), Link("g", "f", Mode(0o640)))), "f", "u6 U7 g4 m4 o0"},
		{"a hard link's ACL is the file's", stack(layer(File("f", ""), Link("g", "f", Mode(0o640), Xattr(access, acl("u6 U7 g4 m7 o4"))))), "f", "u6 U7 g4 m4 o0"},
		{"a hard link's ACL can be the end of the file's", stack(layer(File("f", "", Xattr(access, acl("u6 U7 g4 m7 o4"))), Link("g", "f", Xattr(access, acl("u6 g4 o4"))))), "f", ""},
		{"files inherit none", stack(layer(Dir("d/", Xattr(byDefault, acl("u7 U7 g7 m7 o7"))), File("d/f", ""))), "d/f", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := merge(t, indexed(t, test.in))
			var want []index.Xattr
			if test.want != "" {
				want = []index.Xattr{{Name: access, Value: acl(test.want)}}
			}
			hasXattrs(test.file, want...)(t, r)
			warnsNot(t, r)
		})
	}
	hasXattrs("d", index.Xattr{Name: byDefault, Value: acl("u7 g5 o5")})(t,
		merge(t, indexed(t, stack(layer(Dir("d/", Mode(0o700), Xattr(byDefault, acl("u7 g5 o5"))))))))
}

func TestACLsThatLinuxDoesNotTakeAreDropped(t *testing.T) {
	const access, byDefault = "system.posix_acl_access", "system.posix_acl_default"
	valid := acl("u6 U7 g4 m7 o4")
	for name, e := range map[string]Entry{
		"nothing":                  File("f", "", Xattr(access, "")),
		"no entries":               File("f", "", Xattr(access, acl(""))),
		"text":                     File("f", "", Xattr(access, "garbage")),
		"version 1":                File("f", "", Xattr(access, "\x01"+valid[1:])),
		"cut":                      File("f", "", Xattr(access, valid[:len(valid)-1])),
		"a permission too much":    File("f", "", Xattr(access, acl("u8 g4 o4"))),
		"permissions of two bytes": File("f", "", Xattr(access, valid[:7]+"\x01"+valid[8:])),
		"an unknown tag":           File("f", "", Xattr(access, acl("u6 g4 m4 o4 ?4"))),
		"a tag of two":             File("f", "", Xattr(access, acl("34 g4 m4 o4"))),
		"no owner":                 File("f", "", Xattr(access, acl("U7 g4 m7 o4"))),
		"two owners":               File("f", "", Xattr(access, acl("u6 u6 g4 o4"))),
		"two masks":                File("f", "", Xattr(access, acl("u6 g4 m7 m7 o4"))),
		"no group":                 File("f", "", Xattr(access, acl("u6 m7 o4"))),
		"no others":                File("f", "", Xattr(access, acl("u6 g4 m7"))),
		"users without a mask":     File("f", "", Xattr(access, acl("u6 U7 g4 o4"))),
		"groups before the group":  File("f", "", Xattr(access, acl("u6 G7 g4 m7 o4"))),
		"a user that is none":      File("f", "", Xattr(access, strings.Replace(valid, "\xe8\x03\x00\x00", "\xff\xff\xff\xff", 1))),
		"more than a page":         File("f", "", Xattr(access, acl("u6"+strings.Repeat(" U7", 508)+" g4 m7 o4"))),
		"a directory's default":    Dir("f/", Xattr(byDefault, acl("u6 o4"))),
		"a default of a file":      File("f", "", Xattr(byDefault, valid)),
		"of a symbolic link":       Symlink("f", "x", Xattr(access, valid)),
		"of a hard link":           Link("f", "t", Xattr(access, "garbage")),
	} {
		t.Run(name, func(t *testing.T) {
			r := merge(t, indexed(t, stack(layer(File("t", ""), e))))
			hasXattrs("f")(t, r)
			if len(r.warnings) != 1 || !strings.Contains(r.warnings[0].Text, "posix_acl") {
				t.Errorf("warnings: %q", r.warnings)
			}
		})
	}
	page := acl("u6" + strings.Repeat(" U7", 507) + " g4 m4 o4")
	hasXattrs("f", index.Xattr{Name: access, Value: page})(t, merge(t, indexed(t, stack(layer(File("f", "", Xattr(access, page)))))))
}

func TestNamesOfAttributesFitInto64KiB(t *testing.T) {
	attributes := func(n, length int) (o []Option) {
		for i := range n {
			o = append(o, Xattr(fmt.Sprintf("user.%0*d", length-6, i), "v"))
		}
		return o
	}
	full := attributes(256, 256) // with their NULs
	r := merge(t, indexed(t, stack(layer(File("f", "", full...), Link("g", "f")))))
	at("g", func(t *testing.T, tree *layers.Tree, n layers.Node) {
		if got := len(tree.Xattrs(n)); got != 256 {
			t.Errorf("%d attributes", got)
		}
	})(t, r)
	for name, l := range map[string][]byte{
		"of a file":      layer(File("f", "", append(full, Xattr("user.z", ""))...)),
		"of a hard link": layer(File("t", "", full...), Link("f", "t", Xattr("user.z", ""))),
	} {
		t.Run(name, func(t *testing.T) {
			rejects("f", "names of attributes")(t, mergeOnce(indexed(t, stack(l))))
		})
	}
}
