package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

// TestAMirrorThatDiesHalfWay has a mirror serve an image whose registry is down, and then the registry go on while the
// mirror is down.
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
			origin := startRegistry(t, home, nil)
			mirror := startRegistry(t, t.TempDir(), nil)
			for _, r := range []*peer.Registry{origin, mirror} {
				if err := push(timeLimit(t), r, im); err != nil {
					t.Fatal(err)
				}
			}
			flags, files := configure(h, origin.Addr, mirror.Addr)
			for name, text := range files {
				if err := os.MkdirAll(filepath.Dir(h.path(name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			origin.Stop()
			ref := inRegistry(origin, im)
			h.umount(t, h.mount(t, ref, flags...))
			h.ok(t, "cache", "rm", "--blobs")
			dir := h.mount(t, ref, flags...)
			readHalf(t, dir)
			startRegistry(t, home, &peer.RegistryOptions{Addr: origin.Addr})
			mirror.Stop()
			sameTree(t, scan(t, dir), umociOracle.tree(t, im), treediff.Blind{}, "umoci")
			s := h.state(t, dir)
			if s.Stats.Errors != 0 {
				t.Errorf("%d reads have failed", s.Stats.Errors)
			}
			if log, err := os.ReadFile(s.Log); err != nil || !strings.Contains(string(log), "a mirror fails") {
				t.Errorf("the log says %s (%v)", log, err)
			}
		})
	}
}

// readHalf reads every other file.
func readHalf(t *testing.T, dir string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if n++; n%2 == 0 {
			return nil
		}
		_, err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTwoRegistriesEachWithItsOwnCredentials logs in to one with imgfs and to the other with skopeo, in one file, which both
// then use.
func TestTwoRegistriesEachWithItsOwnCredentials(t *testing.T) {
	const second = "other:$2y$04$abcdefghijklmnopqrstuuNnEGiRMr2yGNmoi/N0xtxZ43UqjYbEu\n" // the hash of "different", at the lowest cost
	h, im := newHost(t), get(t, theImages).PAXTar()
	ours, theirs := startRegistry(t, t.TempDir(), &peer.RegistryOptions{Auth: true}), startRegistry(t, t.TempDir(), &peer.RegistryOptions{Htpasswd: second})
	if err := push(timeLimit(t), ours, im, "--dest-creds", peer.User+":"+peer.Password); err != nil {
		t.Fatal(err)
	}
	if err := push(timeLimit(t), theirs, im, "--dest-creds", "other:different"); err != nil {
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
		"--username", "other", "--password", "different", theirs.Addr); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*peer.Registry{ours, theirs} {
		dir := h.mount(t, inRegistry(r, im), "--authfile", auth)
		sameTree(t, scan(t, dir), tarOracle.tree(t, im), treediff.Blind{}, "tar")
		for _, password := range []string{peer.Password, "different"} {
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
