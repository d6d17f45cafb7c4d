package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
)

// startRegistry starts a registry of the test's own.
func startRegistry(t *testing.T, dir string, o *peer.RegistryOptions) *peer.Registry {
	t.Helper()
	r, err := peer.StartRegistry(timeLimit(t), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r
}

// otherUser is a user of a registry that is not peer.User's.
const otherUser, otherPassword = "other", "different"

// otherHtpasswd is the file of that user, with a hash at the lowest cost.
const otherHtpasswd = otherUser + ":$2y$04$abcdefghijklmnopqrstuuNnEGiRMr2yGNmoi/N0xtxZ43UqjYbEu\n"

// TestAMirrorThatDiesHalfWay has a mirror serve an image whose registry is down, and then the registry go on while the
// mirror is down: it dies while tar reads. Each has its own users.
func TestAMirrorThatDiesHalfWay(t *testing.T) {
	im := get(t, theImages).Python()
	for by, configure := range map[string]func(h *host, origin, mirror string) (flags []string, files map[string]string){
		"registries.conf": func(h *host, origin, mirror string) ([]string, map[string]string) {
			text := fmt.Sprintf("[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n", origin, mirror)
			return []string{"--registries-conf", h.path("registries.conf")}, map[string]string{"registries.conf": text}
		},
		"hosts.toml": func(h *host, origin, mirror string) ([]string, map[string]string) {
			text := fmt.Sprintf("server = %q\n[host.%q]\n", "http://"+origin, "http://"+mirror)
			return []string{"--hosts-dir", h.path("certs.d")}, map[string]string{"certs.d/" + origin + "/hosts.toml": text}
		},
	} {
		t.Run(by, func(t *testing.T) {
			h, home := newHost(t), t.TempDir()
			origin := startRegistry(t, home, &peer.RegistryOptions{Auth: true})
			mirror := startRegistry(t, t.TempDir(), &peer.RegistryOptions{Htpasswd: otherHtpasswd})
			must(t, push(timeLimit(t), origin, im, "--dest-creds", peer.User+":"+peer.Password))
			must(t, push(timeLimit(t), mirror, im, "--dest-creds", otherUser+":"+otherPassword))
			flags, files := configure(h, origin.Addr, mirror.Addr)
			files["auth.json"] = authFile(t, map[string]string{origin.Addr: peer.User + ":" + peer.Password, mirror.Addr: otherUser + ":" + otherPassword})
			flags = append(flags, "--authfile", h.path("auth.json"))
			for name, text := range files {
				must(t, os.MkdirAll(filepath.Dir(h.path(name)), 0o755))
				must(t, os.WriteFile(h.path(name), []byte(text), 0o600))
			}
			origin.Stop()
			ref := inRegistry(origin, im)
			h.umount(t, h.mount(t, ref, flags...))
			h.ok(t, "cache", "rm", "--blobs")
			dir := h.mount(t, ref, flags...)
			readByTar(t, dir, umociOracle.tree(t, im), func() {
				startRegistry(t, home, &peer.RegistryOptions{Auth: true, Addr: origin.Addr})
				mirror.Stop()
			})
			s := h.state(t, dir)
			if s.Stats.Errors != 0 {
				t.Errorf("%d reads have failed", s.Stats.Errors)
			}
			if log := readFile(t, s.Log); !strings.Contains(log, "a mirror fails") {
				t.Errorf("the log says %s", log)
			}
		})
	}
}

// authFile is a file of credentials: USER:PASSWORD by registry, or by repository.
func authFile(t *testing.T, users map[string]string) string {
	t.Helper()
	auths := map[string]map[string]string{}
	for key, user := range users {
		auths[key] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(user))}
	}
	return encodeJSON(t, map[string]any{"auths": auths})
}

// readByTar has tar read a tree, and compares what is in its files. When half of that has come, and tar waits for somebody to take
// more, half is called.
func readByTar(t *testing.T, dir string, want treediff.Tree, half func()) {
	t.Helper()
	files, size := map[string]treediff.Entry{}, int64(0)
	for _, e := range want {
		if e.Type == unix.S_IFREG && e.Group == e.Path {
			files[e.Path] = e
			size += e.Size
		}
	}
	cmd := exec.CommandContext(timeLimit(t), "tar", "--create", "--sort=name", "--directory", dir, ".")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	read := int64(0)
	for r := tar.NewReader(out); ; {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		e, ok := files[path.Clean(header.Name)]
		if !ok || header.Typeflag != tar.TypeReg {
			continue
		}
		delete(files, e.Path)
		sum := sha256.New()
		n, err := io.Copy(sum, r)
		must(t, err)
		if [sha256.Size]byte(sum.Sum(nil)) != e.Sum {
			t.Errorf("%s is not what it should be", e.Path)
		}
		if read < size/2 && read+n >= size/2 {
			half()
		}
		read += n
	}
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 || len(files) > 0 {
		t.Errorf("tar says %q (%v); %d files are missing", stderr.String(), err, len(files))
	}
}

// TestTwoRegistriesEachWithItsOwnCredentials logs in to one with imgfs and to the other with skopeo, in one file, which both
// then use.
func TestTwoRegistriesEachWithItsOwnCredentials(t *testing.T) {
	h, im := newHost(t), get(t, theImages).PAXTar()
	ours, theirs := startRegistry(t, t.TempDir(), &peer.RegistryOptions{Auth: true}), startRegistry(t, t.TempDir(), &peer.RegistryOptions{Htpasswd: otherHtpasswd})
	if err := push(timeLimit(t), ours, im, "--dest-creds", peer.User+":"+peer.Password); err != nil {
		t.Fatal(err)
	}
	if err := push(timeLimit(t), theirs, im, "--dest-creds", otherUser+":"+otherPassword); err != nil {
		t.Fatal(err)
	}
	auth := h.path("auth.json")
	login := func(password string) (string, error) {
		cmd := h.command("login", "--authfile", auth, "-u", peer.User, "--password-stdin", ours.Addr)
		cmd.Stdin = strings.NewReader(password)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		return stderr.String(), err
	}
	if said, err := login("wrong"); err == nil {
		t.Errorf("a wrong password: %s", said)
	}
	if said, err := login(peer.Password + "\n"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	if _, err := peer.Run(timeLimit(t), "skopeo", "login", "--tls-verify=false", "--authfile", auth,
		"--username", otherUser, "--password", otherPassword, theirs.Addr); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*peer.Registry{ours, theirs} {
		dir := h.mount(t, inRegistry(r, im), "--authfile", auth)
		sameTree(t, scan(t, dir), tarOracle.tree(t, im), treediff.Blind{}, "tar")
		for _, password := range []string{peer.Password, otherPassword} {
			h.checkNowhere(t, password, h.state(t, dir).PID)
		}
		if _, err := peer.Run(timeLimit(t), "skopeo", "inspect", "--tls-verify=false", "--authfile", auth, "docker://"+inRegistry(r, im)); err != nil {
			t.Error(err)
		}
		if tags := h.ok(t, "tags", "--authfile", auth, r.Addr+"/test/"+im.Name); tags != im.Tag+"\n" {
			t.Errorf("the tags are %q", tags)
		}
	}
	h.ok(t, "logout", "--authfile", auth, ours.Addr)
	h.fails(t, 4, []string{ours.Addr}, "digest", "--authfile", auth, inRegistry(ours, im))
	h.ok(t, "digest", "--authfile", auth, inRegistry(theirs, im))
}

// TestCredentialsOfARepositoryCountBeforeThoseOfItsRegistry has both in a file, as podman and skopeo know them.
func TestCredentialsOfARepositoryCountBeforeThoseOfItsRegistry(t *testing.T) {
	h, im, r := newHost(t), get(t, theImages).PAXTar(), startRegistry(t, t.TempDir(), &peer.RegistryOptions{Auth: true})
	must(t, push(timeLimit(t), r, im, "--dest-creds", peer.User+":"+peer.Password))
	good, bad := peer.User+":"+peer.Password, peer.User+":wrong"
	repo := strings.TrimSuffix(inRegistry(r, im), ":"+im.Tag)
	for _, test := range []struct {
		users map[string]string
		ok    bool
	}{
		{map[string]string{repo: good, r.Addr: bad}, true},
		{map[string]string{r.Addr + "/test": good, r.Addr: bad}, true},
		{map[string]string{repo: bad, r.Addr: good}, false},
		{map[string]string{repo + "-other": good}, false},
	} {
		must(t, os.WriteFile(h.path("auth.json"), []byte(authFile(t, test.users)), 0o600))
		_, err := peer.Run(timeLimit(t), "skopeo", "inspect", "--tls-verify=false", "--authfile", h.path("auth.json"), "docker://"+inRegistry(r, im))
		if (err == nil) != test.ok {
			t.Errorf("%v: skopeo says %v", test.users, err)
		}
		if args := []string{"digest", "--authfile", h.path("auth.json"), inRegistry(r, im)}; test.ok {
			h.ok(t, args...)
		} else {
			h.fails(t, 4, []string{r.Addr}, args...)
		}
	}
}
