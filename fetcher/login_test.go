package fetcher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/docker/cli/cli/config/types"

	"imgfs/internal/testimage"
)

func TestLoginChecksBeforeItStores(t *testing.T) {
	for mode, require := range map[string]func(*testimage.Registry, string, string){
		"basic": (*testimage.Registry).RequireBasic, "bearer": (*testimage.Registry).RequireBearer,
	} {
		r := startRegistry(t)
		r.Push("a", "t", imageOf(noise(10)).Bundle())
		require(r, "me", "canary-password")
		file := filepath.Join(t.TempDir(), "new", "auth.json")
		var log bytes.Buffer
		f, _ := newFetcher(t, Options{Authfile: file, MakeAuthfile: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
		_, err := f.Login(t.Context(), r.Host(), "me", "canary-wrong")
		leaks(t, &log, err, "canary")
		if !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%s, a wrong password: %v", mode, err)
		}
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s, a wrong password was stored", mode)
		}
		r.Inject(testimage.Fault{On: testimage.Pings, Kind: testimage.Refuse, Status: 503, Times: 1})
		l, err := f.Login(t.Context(), "https://"+r.Host()+"/", "me", "canary-password")
		leaks(t, &log, err, "canary")
		if err != nil || l.Where != file || l.Registry != r.Host() {
			t.Fatalf("%s: %+v, %v", mode, l, err)
		}
		if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", mode, fi.Mode(), err)
		}
		f, _ = newFetcher(t, Options{Authfile: file})
		resolve(t, f, r.Host()+"/a:t")
		if _, more, err := f.Logout(t.Context(), r.Host()); err != nil || len(more) > 0 {
			t.Errorf("%s: %v, %v", mode, more, err)
		}
		if _, err := f.Resolve(t.Context(), parse(t, r.Host()+"/a:t")); err != nil {
			t.Errorf("%s: who has a token goes on: %v", mode, err)
		}
		f, _ = newFetcher(t, Options{Authfile: file})
		if _, err := f.Resolve(t.Context(), parse(t, r.Host()+"/a:t")); !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%s, after logout: %v", mode, err)
		}
		if _, _, err := f.Logout(t.Context(), r.Host()); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s, logout again: %v", mode, err)
		}
	}
}

func TestARegistryThatAsksForNothingCannotCheck(t *testing.T) {
	r := startRegistry(t)
	file := filepath.Join(t.TempDir(), "auth.json")
	var log bytes.Buffer
	f, _ := newFetcher(t, Options{Authfile: file, MakeAuthfile: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if _, err := f.Login(t.Context(), r.Host(), "me", "canary"); err != nil || !strings.Contains(log.String(), "cannot be checked") {
		t.Errorf("%v, %s", err, &log)
	}
	for _, q := range r.Requests(nil) {
		if q.Authorization != "" {
			t.Error("it was sent credentials that it did not ask for")
		}
	}
}

func TestCredentialsThatAreNotSentAreNotStored(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"token":"anonymous"}`) }))
	t.Cleanup(other.Close)
	for name, answer := range map[string]http.HandlerFunc{
		"led astray": func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, other.URL+"/v2/", http.StatusFound)
		},
		"a token server elsewhere": func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://auth.example/token"`)
				w.WriteHeader(http.StatusUnauthorized)
			}
		},
	} {
		registry := httptest.NewServer(answer)
		t.Cleanup(registry.Close)
		file, verify := filepath.Join(t.TempDir(), "auth.json"), false
		f, _ := newFetcher(t, Options{Authfile: file, MakeAuthfile: true, TLSVerify: &verify})
		f.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == "auth.example:80" {
				addr = other.Listener.Addr().String()
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
		_, err := f.Login(t.Context(), strings.TrimPrefix(registry.URL, "http://"), "me", "canary")
		if !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "is sent no credentials") || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: stored all the same", name)
		}
	}
}

func TestLoginsThatMakeNoSense(t *testing.T) {
	f, _ := newFetcher(t, Options{})
	for _, registry := range []string{"", "a b", "reg.example/UPPER", "reg.example:port", "ftp://reg.example", "reg.example?x", "user@reg.example"} {
		if _, err := f.Login(t.Context(), registry, "me", "x"); !errors.Is(err, ErrReference) {
			t.Errorf("%q: %v", registry, err)
		}
	}
	for _, creds := range [][2]string{{"", "x"}, {"me", ""}, {"m:e", "x"}} {
		if _, err := f.Login(t.Context(), "reg.example", creds[0], creds[1]); !errors.Is(err, ErrOptions) {
			t.Errorf("%q: %v", creds, err)
		}
	}
}

// openTo starts a registry that has no questions.
func openTo(t testing.TB) string { return startRegistry(t).Host() }

func TestOtherEntriesOfAFileAreKept(t *testing.T) {
	host := openTo(t)
	file := filepath.Join(t.TempDir(), "real", "config.json")
	before := `{"auths":{"other.example":{"auth":"eDp5","email":"x@y"},"reg.example/a":{"identitytoken":"it"}},
		"HttpHeaders":{"X":"y"},"credHelpers":{"z.example":"z"},"unknown":[1,{"a":null}]}`
	writeFile(t, file, before, 0o644)
	link := filepath.Join(t.TempDir(), "link.json")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	f, _ := newFetcher(t, Options{Authfile: link})
	if _, err := f.Login(t.Context(), host, "me", "pass:word"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Login(t.Context(), host+"/team/x", "other", "pass"); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Lstat(link); err != nil || fi.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", fi.Mode(), err)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", fi.Mode(), err)
	}
	if found, err := found(t, f, host+"/a"); err != nil || found.Username != "me" || found.Password != "pass:word" {
		t.Errorf("%+v, %v", found, err)
	}
	if found, err := found(t, f, host+"/team/x/y"); err != nil || found.Username != "other" {
		t.Errorf("%+v, %v", found, err)
	}
	for _, registry := range []string{host, host + "/team/x"} {
		if _, _, err := f.Logout(t.Context(), registry); err != nil {
			t.Fatal(err)
		}
	}
	var was, is any
	b, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(b, &is) != nil || json.Unmarshal([]byte(before), &was) != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(was) != fmt.Sprint(is) {
		t.Errorf("the file was %v, and is %v", was, is)
	}
	if files, err := os.ReadDir(filepath.Dir(file)); err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

func TestLoginsAtOnceLoseNothing(t *testing.T) {
	host := openTo(t)
	file := filepath.Join(t.TempDir(), "auth.json")
	isolate(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			f, err := New(&Options{Authfile: file, MakeAuthfile: true})
			if err == nil {
				_, err = f.Login(t.Context(), fmt.Sprintf("%s/team%d", host, i), fmt.Sprint("user", i), "x")
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f, _ := newFetcher(t, Options{Authfile: file})
	for i := range 20 {
		if found, err := found(t, f, fmt.Sprintf("%s/team%d/x", host, i)); err != nil || found.Username != fmt.Sprint("user", i) {
			t.Errorf("%d: %v, %v", i, found, err)
		}
	}
}

func TestCredentialsAreStoredWhereTheyWillBeFound(t *testing.T) {
	host := openTo(t)
	const runtime, config, docker = "XDG_RUNTIME_DIR/containers/auth.json", "XDG_CONFIG_HOME/containers/auth.json", "DOCKER_CONFIG/config.json"
	own := fmt.Sprintf(`{"auths":{%q:{"auth":"eDp5"}}}`, host)
	helper := fmt.Sprintf(`{"credHelpers":{%q:"box"}}`, host)
	for name, test := range map[string]struct {
		files map[string]string
		bad   string // a directory that cannot be written
		want  string // a file, or a helper
	}{
		"nothing yet":                     {nil, "", runtime},
		"no run-time directory":           {nil, "XDG_RUNTIME_DIR", config},
		"docker's file has it":            {map[string]string{docker: own}, "", docker},
		"podman's file has it":            {map[string]string{config: own, docker: own}, "", config},
		"docker's file has others":        {map[string]string{docker: `{"auths":{"other.example":{"auth":"eDp5"}}}`}, "", runtime},
		"docker's file has a helper":      {map[string]string{docker: helper}, "", "docker-credential-box"},
		"docker's file has a store":       {map[string]string{docker: `{"credsStore":"box"}`}, "", "docker-credential-box"},
		"podman's file has it, and a box": {map[string]string{runtime: own, docker: helper}, "", runtime},
		"an empty file":                   {map[string]string{runtime: ""}, "", runtime},
	} {
		isolate(t)
		box := installBox(t)
		path := func(p string) string {
			env, rest, _ := strings.Cut(p, "/")
			return filepath.Join(os.Getenv(env), rest)
		}
		for p, content := range test.files {
			writeFile(t, path(p), content, 0o600)
		}
		if test.bad != "" { // root may write everywhere, but not below a file
			file := filepath.Join(t.TempDir(), "file")
			writeFile(t, file, "", 0o600)
			t.Setenv(test.bad, filepath.Join(file, "x"))
		}
		f, err := New(nil)
		if err != nil {
			t.Fatal(err)
		}
		l, err := f.Login(t.Context(), host, "me", "canary-secret")
		want := test.want
		if strings.Contains(want, "/") {
			want = path(want)
		}
		if err != nil || l.Where != want {
			t.Errorf("%s: %+v, %v", name, l, err)
			continue
		}
		if found, err := found(t, f, host+"/a"); err != nil || found.Username != "me" || found.Password != "canary-secret" {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
		b, _ := os.ReadFile(box)
		if (test.want == "docker-credential-box") != bytes.Contains(b, []byte("canary-secret")) {
			t.Errorf("%s: the helper has %s", name, b)
		}
		if out, more, err := f.Logout(t.Context(), host); err != nil || out.Where != want {
			t.Errorf("%s: %+v, %v, %v", name, out, more, err)
		}
	}
}

// installBox puts a credential helper in the PATH that keeps one secret in a file.
func installBox(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	box := filepath.Join(dir, "box")
	script := fmt.Sprintf("#!/bin/sh\ncase $1 in\nstore) cat >%[1]s;;\nget) [ -s %[1]s ] && cat %[1]s || { echo '%[2]s'; exit 1; };;\nerase) rm %[1]s;;\n*) exit 9;;\nesac\n", box, helperNotFound)
	writeFile(t, filepath.Join(dir, helperPrefix+"box"), script, 0o755)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return box
}

func TestLogoutLeavesNothingThatCountsUntold(t *testing.T) {
	host := openTo(t)
	for name, test := range map[string]struct {
		file     string // %[1]s is the registry, %[2]s what it has
		registry string
		first    string // what is forgotten first: a helper, or else the file
		more     int
	}{
		"a URL":                   {`{"auths":{"https://%[1]s/v2/":%[2]s}}`, host, "", 0},
		"a URL and a name":        {`{"auths":{"https://%[1]s/v2/":%[2]s,"%[1]s":%[2]s}}`, host, "", 0},
		"several names":           {`{"auths":{"docker.io":%[2]s,"https://index.docker.io/v1/":%[2]s,"https://index.docker.io/v1/access-token":%[2]s}}`, hub, "", 0},
		"a helper of its own":     {`{"auths":{"%[1]s":%[2]s},"credHelpers":{"%[1]s":"box"}}`, host, "docker-credential-box", 1},
		"a helper of all":         {`{"auths":{"%[1]s":%[2]s},"credsStore":"box"}`, host, "", 1},
		"a helper that is broken": {`{"auths":{"%[1]s":%[2]s},"credsStore":"no-such-helper"}`, host, "", 0},
	} {
		isolate(t)
		box := installBox(t)
		writeFile(t, box, `{"Username":"me","Secret":"x"}`, 0o600)
		file := filepath.Join(t.TempDir(), "auth.json")
		writeFile(t, file, fmt.Sprintf(test.file, host, `{"auth":"eDp5"}`), 0o600)
		f, _ := newFetcher(t, Options{Authfile: file})
		l, more, err := f.Logout(t.Context(), test.registry)
		if err != nil || l.Where != firstOf(test.first, file) || len(more) != test.more {
			t.Fatalf("%s: %+v, %v, %v", name, l, more, err)
		}
		for range test.more {
			if _, _, err := f.Logout(t.Context(), test.registry); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if b, err := os.ReadFile(file); err != nil || bytes.Contains(b, []byte("eDp5")) {
			t.Errorf("%s: left is %s, %v", name, b, err)
		}
	}
}

func TestAFileStaysItsOwners(t *testing.T) {
	host := openTo(t)
	file := filepath.Join(t.TempDir(), "auth.json")
	writeFile(t, file, "{}", 0o600)
	owner := func() [2]uint32 {
		fi, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		return [2]uint32{st.Uid, st.Gid}
	}
	_ = os.Chown(file, 12345, 12345) // which only root can
	before := owner()
	f, _ := newFetcher(t, Options{Authfile: file})
	if _, err := f.Login(t.Context(), host, "me", "x"); err != nil {
		t.Fatal(err)
	}
	if after := owner(); after != before {
		t.Errorf("the file of %v is that of %v", before, after)
	}
}

func TestLoginReplacesWhatCounts(t *testing.T) {
	isolate(t)
	for range 20 { // maps have no order
		file := filepath.Join(t.TempDir(), "auth.json")
		writeFile(t, file, auths("https://index.docker.io/v1/", "old", "docker.io", "old", "registry-1.docker.io", "old"), 0o600)
		f, err := New(&Options{Authfile: file})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.keep(t.Context(), hub, hub, types.AuthConfig{Username: "new", Password: "secret-of-new"}); err != nil {
			t.Fatal(err)
		}
		if got := user(t, f, "alpine"); got != "new" {
			t.Fatalf("after a login it is %q", got)
		}
	}
}

func TestFilesThatAreNotWhatTheyShouldBeStayAsTheyAre(t *testing.T) {
	host := openTo(t)
	for _, content := range []string{"{", "[]", "null", `{"auths":[]}`, `{"auths":1}`} {
		file := filepath.Join(t.TempDir(), "auth.json")
		writeFile(t, file, content, 0o600)
		f, _ := newFetcher(t, Options{Authfile: file})
		if _, err := f.Login(t.Context(), host, "me", "canary"); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", content, err)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != content {
			t.Errorf("%s has become %s, %v", content, b, err)
		}
	}
}
