package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
	"imgfs/internal/testimage"
)

// TestDocumentsAreThoseThatSkopeoSees holds the commands that print documents
// against skopeo, byte for byte.
func TestDocumentsAreThoseThatSkopeoSees(t *testing.T) {
	h := newHost(t)
	for _, im := range append(get(t, theImages).Full(), get(t, theImages).Python()) {
		for _, source := range sources {
			t.Run(im.Name+"/"+source.name, func(t *testing.T) {
				ref := source.ref(t, im)
				for command, flags := range map[string][]string{
					"manifest": {"--raw"}, "config": {"--raw", "--config"}, "digest": {"--format", "{{.Digest}}"},
				} {
					if got, want := h.ok(t, command, ref), skopeoInspect(t, ref, flags...); got != want {
						t.Errorf("imgfs %s prints\n%s\nskopeo says\n%s", command, got, want)
					}
				}
			})
		}
	}
}

func skopeoInspect(t *testing.T, ref string, flags ...string) string {
	t.Helper()
	if !strings.Contains(ref, ":/") { // all but registries have paths
		ref = "docker://" + ref
	}
	args := append(append([]string{"inspect", "--tls-verify=false"}, flags...), ref)
	out, err := peer.Run(timeLimit(t), "skopeo", args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A fileInfo is a line of imgfs ls --json and of imgfs stat --json.
type fileInfo struct {
	Path  string
	Type  string
	Mode  string
	UID   uint32
	GID   uint32
	Size  int64
	Nlink uint64
	Mtime time.Time
}

func (i *fileInfo) String() string {
	return fmt.Sprintf("%s: %s %s, %d:%d, %d bytes, %d links, %v",
		i.Path, i.Type, i.Mode, i.UID, i.GID, i.Size, i.Nlink, i.Mtime.UTC())
}

// infoOf is what imgfs should tell of an entry of an oracle's tree. (JSON has
// the replacement character for each byte of a name that is not UTF-8.)
func infoOf(e *treediff.Entry) fileInfo {
	types := map[uint32]string{
		unix.S_IFDIR: "directory", unix.S_IFREG: "file", unix.S_IFLNK: "symlink",
		unix.S_IFIFO: "fifo", unix.S_IFCHR: "char", unix.S_IFBLK: "block",
	}
	i := fileInfo{
		Path: "/" + string([]rune(e.Path)), Type: types[e.Type], Mode: fmt.Sprintf("%04o", e.Mode), UID: e.UID, GID: e.GID,
		Size: e.Size, Nlink: e.Nlink, Mtime: time.Unix(e.Mtime.Unix()),
	}
	if e.Type == unix.S_IFDIR {
		i.Size = 4096
	}
	return i
}

func TestListingsWithoutAMountAgreeWithAnUnpack(t *testing.T) {
	h := newHost(t)
	im := get(t, theImages).Full()[0]
	infos := parseJSON[[]fileInfo](t, h.ok(t, "ls", "--recursive", "--json", inLayout(im)+":/"))
	byPath := make(map[string]fileInfo)
	for _, i := range infos {
		byPath[i.Path] = i
	}
	for _, e := range umociOracle.tree(t, im)[1:] { // ls does not list the root itself
		want := infoOf(&e)
		got := byPath[want.Path]
		if got.String() != want.String() {
			t.Errorf("ls prints\n%v\nwant\n%v", &got, &want)
		}
		delete(byPath, want.Path)
	}
	if len(byPath) > 0 {
		t.Errorf("ls lists what is not there: %q", slices.Sorted(maps.Keys(byPath)))
	}
}

func TestFilesAreReadWithoutAMount(t *testing.T) {
	h := newHost(t)
	im := get(t, theImages).Full()[1]
	ref := inRegistry(get(t, theRegistry), im)
	tests := []struct{ name, path, want string }{
		{"a changed file", "/etc/issue", "Debian, changed\n"},
		{"a hard link", "/opt/links/b", "linked\n"},
		{"through a link to a directory", "/opt/types/dir-to-link/../../opt/links/a", "linked\n"}, // /usr/lib/../..
		{"a name of many bytes", "/opt/names/日本語.txt", "日本語.txt"},
		{"an empty file", "/opt/empty", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := h.ok(t, "cat", ref+":"+test.path); got != test.want {
				t.Errorf("cat %s prints %q, want %q", test.path, got, test.want)
			}
		})
	}
	h.fails(t, 2, []string{"/bin/../opt/modes"}, "cat", ref+":/bin/../opt/modes/4755") // /usr/bin/../opt
	h.fails(t, 2, []string{"/no/such/file"}, "cat", ref+":/no/such/file")
	h.fails(t, 2, []string{"/etc/nothing"}, "stat", ref+":/etc/nothing")
	h.fails(t, 2, []string{"/nowhere"}, "ls", ref+":/nowhere")
}

func TestStatTellsAllOfAFile(t *testing.T) {
	h := newHost(t)
	im := get(t, theImages).Full()[1]
	tree := umociOracle.tree(t, im)
	for _, path := range []string{"/opt/dev/wide", "/opt/modes/4755", "/opt/names/to far away", "/opt/links/fifo", "/opt/y2038", "/"} {
		got := parseJSON[[]fileInfo](t, h.ok(t, "stat", "--json", inLayout(im)+":"+path))
		want := infoOf(tree.Find("." + path))
		want.Path = path
		if len(got) != 1 || got[0].String() != want.String() {
			t.Errorf("stat prints\n%v\nwant\n%v", got, &want)
		}
	}
}

func TestInspectShowsLayersAndWhetherTheyAreIndexed(t *testing.T) {
	type inspection struct {
		Name, Digest, Platform string
		Layers                 []struct {
			Digest string
			DiffID string `json:"diff_id"`
			Size   int64
			Index  *struct{ Entries int }
		}
	}
	h := newHost(t)
	ref := inRegistry(get(t, theRegistry), get(t, theImages).Python())
	before := parseJSON[inspection](t, h.ok(t, "inspect", "--json", ref))
	h.umount(t, h.mount(t, ref))
	after := parseJSON[inspection](t, h.ok(t, "inspect", "--json", ref))
	if want := strings.TrimSpace(skopeoInspect(t, ref, "--format", "{{.Digest}}")); after.Digest != want {
		t.Errorf("the digest is %s, skopeo says %s", after.Digest, want)
	}
	if after.Platform != "linux/amd64" || len(after.Layers) != 2 {
		t.Errorf("inspect prints %+v", after)
	}
	for i, l := range after.Layers {
		if before.Layers[i].Index != nil || l.Index == nil || l.Index.Entries == 0 || l.Size == 0 || l.DiffID == "" {
			t.Errorf("layer %d: %+v before, %+v after", i, before.Layers[i], l)
		}
	}
	if history := h.ok(t, "history", ref); strings.Count(history, "\n") < 3 {
		t.Errorf("history prints\n%s", history)
	}
}

func TestTheCacheIsListedAndClearedButNotUnderAMount(t *testing.T) {
	type item struct {
		Kind   string
		Digest string
		InUse  bool `json:"in_use"`
	}
	h := newHost(t)
	list := func() (blobs, used int) {
		for _, i := range parseJSON[[]item](t, h.ok(t, "cache", "ls", "--json")) {
			if i.Kind == "blob" {
				blobs++
			}
			if i.InUse {
				used++
			}
		}
		return blobs, used
	}
	dir := h.mount(t, inRegistry(get(t, theRegistry), get(t, theImages).PAXTar()))
	if blobs, used := list(); blobs != 3 || used == 0 {
		t.Errorf("%d blobs, %d things in use, want 3 and some", blobs, used)
	}
	h.fails(t, 1, []string{"in use"}, "cache", "rm", "--blobs")
	if blobs, _ := list(); blobs != 3 {
		t.Errorf("%d blobs are left of what a mount uses, want 3", blobs)
	}
	scan(t, dir)
	h.umount(t, dir)
	h.ok(t, "cache", "rm", "--blobs")
	if blobs, used := list(); blobs != 0 || used != 0 {
		t.Errorf("%d blobs are left, %d things in use", blobs, used)
	}
	h.ok(t, "cache", "rm", "--all")
	if items := parseJSON[[]item](t, h.ok(t, "cache", "ls", "--json")); len(items) != 0 {
		t.Errorf("the cache still has %+v", items)
	}
}

func TestCredentials(t *testing.T) {
	h, im := newHost(t), get(t, theImages).PAXTar()
	r, err := peer.StartRegistry(timeLimit(t), t.TempDir(), &peer.RegistryOptions{Auth: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	creds := peer.User + ":" + peer.Password
	if err := push(timeLimit(t), r, im, "--dest-creds", creds); err != nil {
		t.Fatal(err)
	}
	ref := inRegistry(r, im)
	h.fails(t, 4, []string{r.Addr}, "digest", ref)
	h.fails(t, 4, []string{r.Addr}, "mount", "--creds", peer.User+":wrong", ref, h.mkdir(t))
	dir := h.mount(t, ref, "--creds", creds)
	h.checkNowhere(t, peer.Password, h.state(t, dir).PID)
	h.umount(t, dir)

	auth := h.path("auth.json")
	if _, err := peer.Run(timeLimit(t), "skopeo", "login", "--tls-verify=false", "--authfile", auth,
		"--username", peer.User, "--password", peer.Password, r.Addr); err != nil {
		t.Fatal(err)
	}
	fresh := newHost(t)
	dir = fresh.mount(t, ref, "--authfile", auth)
	sameTree(t, scan(t, dir), tarOracle.tree(t, im), treediff.Blind{}, "tar")
}

// TestASignatureInAURLIsToldNobody mounts a tar at a URL that only those may have who know it.
func TestASignatureInAURLIsToldNobody(t *testing.T) {
	const secret = "sig=c2lnbmVk"
	tar := testimage.Tar(testimage.File("file", "content"))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != secret {
			http.Error(w, "not for you", http.StatusForbidden)
			return
		}
		w.Header().Set("ETag", `"1"`)
		http.ServeContent(w, r, "a.tar", time.Time{}, bytes.NewReader(tar))
	}))
	defer server.Close()
	h := newHostIn(t, helpersInPlace(), 0)
	one, two := h.mkdir(t), h.mkdir(t)
	ref := "tar:" + server.URL + "/a.tar?" + secret
	h.ok(t, "mount", ref, one)
	h.system(t, "mount", "-t", "imgfs", ref, two)
	for _, dir := range []string{one, two} {
		h.checkNowhere(t, secret, h.state(t, dir).PID)
		if table := h.system(t, "cat", "/proc/self/mountinfo"); strings.Contains(table, secret) {
			t.Errorf("the mount table has the signature:\n%s", table)
		}
		h.umount(t, dir)
	}
}

// checkNowhere looks for a secret in all that a mount shows and keeps.
func (h *host) checkNowhere(t *testing.T, secret string, pid int) {
	t.Helper()
	files := append(filesBelow(t, h.path("run")), filesBelow(t, h.cache())...)
	for _, name := range []string{"cmdline", "environ"} {
		files = append(files, fmt.Sprintf("/proc/%d/%s", pid, name))
	}
	for _, name := range files {
		// What can't be read as a file is the socket.
		if b, err := os.ReadFile(name); err == nil && strings.Contains(string(b), secret) {
			t.Errorf("the password is in %s", name)
		}
	}
}

func TestTLSNeedsATrustedCertificate(t *testing.T) {
	r := testimage.StartTLSRegistry(nil)
	defer r.Close()
	r.Push("test/small", "v1", tiny().Bundle())
	certs := t.TempDir()
	if err := os.WriteFile(filepath.Join(certs, "ca.crt"), pemOf(r.Certificate()), 0o600); err != nil {
		t.Fatal(err)
	}
	h, ref := newHost(t), r.Host()+"/test/small:v1"
	h.fails(t, 1, []string{"certificate"}, "digest", ref)
	h.ok(t, "digest", "--cert-dir", certs, ref)
	h.ok(t, "digest", "--tls-verify=false", ref)
}

func TestThePlatformIsChosen(t *testing.T) {
	h, layout := newHost(t), t.TempDir()
	arm := tiny()
	arm.Platform.OS, arm.Platform.Architecture, arm.Platform.Variant = "linux", "arm64", "v8"
	arm.Layers = []testimage.Layer{layerOf(testimage.File("arm", "64"))}
	amd := tiny().Bundle()
	writeLayout(t, layout, testimage.Index(amd, testimage.Attestation(amd), testimage.Index(arm.Bundle())))
	ref := "oci:" + layout + ":v1"
	if got := h.ok(t, "cat", ref+":/file"); got != "content" {
		t.Errorf("of the default platform: %q", got)
	}
	if got := h.ok(t, "cat", "--platform", "linux/arm64", ref+":/arm"); got != "64" {
		t.Errorf("of linux/arm64: %q", got)
	}
	h.fails(t, 2, []string{"linux/s390x", "linux/amd64", "linux/arm64"}, "digest", "--platform", "linux/s390x", ref)
}

func TestVersionAndCompletionAreData(t *testing.T) {
	h := newHost(t)
	if out := h.ok(t, "version"); !strings.HasPrefix(out, "imgfs ") || strings.Count(out, "\n") != 1 {
		t.Errorf("version prints %q", out)
	}
	if v := parseJSON[map[string]string](t, h.ok(t, "version", "--json")); v["version"] == "" || v["os"] != "linux" {
		t.Errorf("version --json prints %q", v)
	}
	if out := h.ok(t, "completion", "bash"); !strings.Contains(out, "imgfs") {
		t.Errorf("completion prints %q", out)
	}
}

// TestTheMemoryOfAMountIsBounded reads an image of half a gigabyte through a
// mount that may keep 16 MiB of it.
func TestTheMemoryOfAMountIsBounded(t *testing.T) {
	h, im := newHost(t), get(t, theImages).Full()[0]
	dir := h.mount(t, inLayout(im), "--memory", "16MiB")
	files := len(scan(t, dir))
	rss := residentBytes(t, h.state(t, dir).PID)
	t.Logf("%d files, %d MiB resident after all was read", files, rss>>20)
	// The tree, the spans, and what the Go runtime and the FUSE buffers take.
	if limit := int64(200*files) + 16<<20 + 64<<20; rss > limit {
		t.Errorf("%d bytes are resident, want at most %d", rss, limit)
	}
}

func residentBytes(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
