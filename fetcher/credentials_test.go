package fetcher

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/cli/cli/config/types"

	"imgfs/internal/testimage"
)

func auth(user string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":secret-of-" + user))
}

// auths returns a credentials file with a user for each key.
func auths(keysAndUsers ...string) string {
	var entries []string
	for i := 0; i < len(keysAndUsers); i += 2 {
		entries = append(entries, fmt.Sprintf(`%q:{"auth":%q}`, keysAndUsers[i], auth(keysAndUsers[i+1])))
	}
	return `{"auths":{` + strings.Join(entries, ",") + `}}`
}

func writeFile(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// found returns the credentials that f has for what s names.
func found(t testing.TB, f *Fetcher, s string) (types.AuthConfig, error) {
	t.Helper()
	r, err := f.route(parse(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return f.credentials(t.Context(), r[0].endpoint, r[0].repo)
}

// user returns who f says it is to the registry of repo.
func user(t testing.TB, f *Fetcher, repo string) string {
	t.Helper()
	c, err := found(t, f, repo)
	if err != nil {
		t.Fatal(err)
	}
	if c.IdentityToken != "" {
		return "token " + c.IdentityToken
	}
	if c.Username != "" && c.Password != "secret-of-"+c.Username {
		t.Errorf("%s has the password %q", c.Username, c.Password)
	}
	return c.Username
}

func TestCredentialsAreLookedForInOrder(t *testing.T) {
	const repo = "reg.example/a"
	places := []string{"creds", "authfile", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", ""}
	// From each place on, the later ones have something; the first of them wins.
	for from, want := range places {
		isolate(t)
		var o Options
		for i := from; i < len(places)-1; i++ {
			place, content := places[i], auths("reg.example", places[i])
			switch path := filepath.Join(t.TempDir(), "auth.json"); place {
			case "creds":
				o.Creds = "creds:secret-of-creds"
			case "authfile":
				o.Authfile = path
				writeFile(t, path, content, 0o600)
			case "REGISTRY_AUTH_FILE":
				t.Setenv(place, path)
				writeFile(t, path, content, 0o600)
			case "DOCKER_CONFIG":
				writeFile(t, filepath.Join(os.Getenv(place), "config.json"), content, 0o600)
			default:
				writeFile(t, filepath.Join(os.Getenv(place), "containers", "auth.json"), content, 0o600)
			}
		}
		f, err := New(&o)
		if err != nil {
			t.Fatal(err)
		}
		if got := user(t, f, repo); got != want {
			t.Errorf("of %v it was %q", places[from:], got)
		}
	}
}

func TestHomeIsWhereTheFilesAreByDefault(t *testing.T) {
	for _, path := range []string{".config/containers/auth.json", ".docker/config.json"} {
		isolate(t)
		t.Setenv("XDG_CONFIG_HOME", "")
		t.Setenv("DOCKER_CONFIG", "")
		t.Setenv("XDG_RUNTIME_DIR", "")
		f, err := New(nil)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(os.Getenv("HOME"), path), auths("reg.example", "me"), 0o600)
		if got := user(t, f, "reg.example/a"); got != "me" {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func TestTheLongestKeyWins(t *testing.T) {
	file := auths(
		"reg.example", "registry", "reg.example/a", "a", "reg.example/a/b", "ab", "reg.example/a/b/c", "abc",
		"reg.example:5000", "port", "https://index.docker.io/v1/", "hub", "docker.io/team", "team",
		"https://index.docker.io/v1/access-token", "access", "https://index.docker.io/v1/refresh-token", "refresh",
		"https://old.example/v2/", "url", "http://other.example", "url2", "other.example", "plain",
	)
	file = strings.Replace(file, `{"auths":{`, `{"auths":{"empty.example/x":{},`+
		`"empty.example":{"identitytoken":"it"},`, 1)
	path := filepath.Join(t.TempDir(), "auth.json")
	writeFile(t, path, file, 0o600)
	f, _ := newFetcher(t, Options{Authfile: path})
	for repo, want := range map[string]string{
		"reg.example/a/b/c":    "abc",
		"reg.example/a/b/c/d":  "abc",
		"reg.example/a/b/cc":   "ab",
		"reg.example/a/x":      "a",
		"reg.example/ab":       "registry",
		"reg.example:5000/a":   "port",
		"reg.example:5001/a":   "",
		"sub.reg.example/a":    "",
		"docker.io/alpine":     "hub",
		"alpine":               "hub",
		"index.docker.io/team": "hub",
		"team/x":               "team",
		"old.example/a":        "url",
		"other.example/a":      "plain",
		"empty.example/x":      "token it",
	} {
		if got := user(t, f, repo); got != want {
			t.Errorf("%s: %q, want %q", repo, got, want)
		}
	}
}

// installHelper puts a credential helper in the PATH, which knows some servers.
func installHelper(t testing.TB, name string, replies map[string]string) {
	t.Helper()
	script := "#!/bin/sh\n[ \"$1\" = get ] || exit 9\nread -r server\ncase $server in\n"
	for server, reply := range replies {
		script += fmt.Sprintf("'%s') echo '%s';;\n", server, reply)
	}
	script += "broken.example) echo canary-secret; exit 1;;\n*) echo '" + helperNotFound + "'; exit 1;;\nesac\n"
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, helperPrefix+name), script, 0o755)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestCredentialHelpersAreAsked(t *testing.T) {
	reply := func(user string) string { return fmt.Sprintf(`{"Username":%q,"Secret":"secret-of-%s"}`, user, user) }
	installHelper(t, "one", map[string]string{
		"one.example": reply("one"), "bad.example": "canary-secret",
		"both.example": reply("helper"), "token.example": `{"Username":"<token>","Secret":"it"}`,
	})
	installHelper(t, "store", map[string]string{
		"store.example": reply("stored"), "both.example": reply("stored"), "https://index.docker.io/v1/": reply("hub"),
		"file.example": reply("stored"),
	})
	path := filepath.Join(t.TempDir(), "config.json")
	writeFile(t, path, `{"credsStore":"store","credHelpers":{"one.example":"one","both.example":"one","token.example":"one",
		"bad.example":"one","broken.example":"one","unknown.example":"one","path.example":"../x","none.example":"nosuch"},
		"auths":{"both.example":{"auth":"`+auth("file")+`"},"file.example":{"auth":"`+auth("file")+`"},"store.example":{}}}`, 0o600)
	f, _ := newFetcher(t, Options{Authfile: path})
	for repo, want := range map[string]string{
		"one.example/a": "one", "both.example/a": "helper", "token.example/a": "token it", "store.example/a": "stored",
		"alpine": "hub", "file.example/a": "file", "unknown.example/a": "", "nobody.example/a": "",
	} {
		if got := user(t, f, repo); got != want {
			t.Errorf("%s: %q, want %q", repo, got, want)
		}
	}
	for _, repo := range []string{"bad.example/a", "broken.example/a", "path.example/a", "none.example/a"} {
		_, err := found(t, f, repo)
		if err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", repo, err)
		}
	}
}

func TestCredentialFilesThatCannotBeRead(t *testing.T) {
	isolate(t)
	missing := filepath.Join(t.TempDir(), "missing.json")
	wanting := func(err error) bool {
		return errors.Is(err, ErrOptions) && errors.Is(err, os.ErrNotExist) && strings.Contains(err.Error(), missing)
	}
	if _, err := New(&Options{Authfile: missing}); !wanting(err) {
		t.Errorf("a missing file: %v", err)
	}
	t.Setenv("REGISTRY_AUTH_FILE", missing)
	f, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Resolve(t.Context(), parse(t, "127.0.0.1:1/a")); !wanting(err) {
		t.Errorf("a missing file that the environment names: %v", err)
	}
	for _, content := range []string{"{", `{"auths":{"a":{"auth":"canary"}}}`, `{"auths":[]}`} {
		f, _ := newFetcher(t, Options{})
		path := filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json")
		writeFile(t, path, content, 0o600)
		_, err := f.Resolve(t.Context(), parse(t, "127.0.0.1:1/a"))
		if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", content, err)
		}
	}
}

func TestRelativePathsAreThoseOfTheDirectoryAtTheBeginning(t *testing.T) {
	for place, use := range map[string]func(o *Options) (file string){
		"authfile":           func(o *Options) string { o.Authfile = "x/auth.json"; return o.Authfile },
		"REGISTRY_AUTH_FILE": func(*Options) string { return "x/auth.json" },
		"XDG_RUNTIME_DIR":    func(*Options) string { return "x/containers/auth.json" },
		"XDG_CONFIG_HOME":    func(*Options) string { return "x/containers/auth.json" },
		"DOCKER_CONFIG":      func(*Options) string { return "x/config.json" },
	} {
		isolate(t)
		t.Chdir(t.TempDir())
		var o Options
		file := use(&o)
		writeFile(t, file, auths("reg.example", "me"), 0o600)
		switch place {
		case "authfile":
		case "REGISTRY_AUTH_FILE":
			t.Setenv(place, file)
		default:
			t.Setenv(place, "x")
		}
		f, err := New(&o)
		if err != nil {
			t.Fatal(err)
		}
		t.Chdir("/")
		if got := user(t, f, "reg.example/a"); got != "me" {
			t.Errorf("%s: %q", place, got)
		}
	}
}

func TestCredentialsOfTheCommandLineHaveUserAndPassword(t *testing.T) {
	for _, creds := range []string{"canary", "canary:", ":canary", ":"} {
		if _, err := New(&Options{Creds: creds}); !errors.Is(err, ErrOptions) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v", creds, err)
		}
	}
}

// leaks fails the test where a secret is in a log or an error.
func leaks(t testing.TB, log fmt.Stringer, err error, secrets ...string) {
	t.Helper()
	text := log.String() + fmt.Sprintf("%v %+v", err, err)
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("the secret %q is in: %s", s, text)
		}
	}
}

func TestRegistriesWantTheRightCredentials(t *testing.T) {
	for _, mode := range []string{"basic", "bearer"} {
		for _, test := range []struct {
			creds string
			ok    bool
		}{{"me:canary-password", true}, {"me:canary-wrong", false}, {"canary-nobody:x", false}, {"", false}} {
			r := startRegistry(t)
			r.Push("a", "t", imageOf([]byte("x")).Bundle())
			if mode == "basic" {
				r.RequireBasic("me", "canary-password")
			} else {
				r.RequireBearer("me", "canary-password")
			}
			var log bytes.Buffer
			f, c := newFetcher(t, Options{Creds: test.creds, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			_, err := f.Resolve(t.Context(), parse(t, r.Host()+"/a:t"))
			if test.ok && err != nil || !test.ok && !errors.Is(err, ErrUnauthorized) {
				t.Errorf("%s with %q: %v", mode, test.creds, err)
			}
			if c.total() > 0 {
				t.Errorf("%s with %q is tried again", mode, test.creds)
			}
			leaks(t, &log, err, "canary", base64.StdEncoding.EncodeToString([]byte("me:canary")), "token-")
		}
	}
}

func TestTokenServersDoNotGetSecretsIntoErrors(t *testing.T) {
	for _, fault := range []testimage.Fault{
		{On: testimage.Tokens, Kind: testimage.Refuse, Status: 500},
		{On: testimage.Tokens, Kind: testimage.Refuse, Status: 200}, // a document without a token
		{On: testimage.Tokens, Kind: testimage.Refuse, Status: 403},
	} {
		r := startRegistry(t)
		r.Push("a", "t", imageOf([]byte("x")).Bundle())
		r.RequireBearer("me", "canary-password")
		r.Inject(fault)
		var log bytes.Buffer
		f, _ := newFetcher(t, Options{Creds: "me:canary-password", Log: slog.New(slog.NewTextHandler(&log, nil))})
		_, err := f.Resolve(t.Context(), parse(t, r.Host()+"/a:t"))
		if err == nil {
			t.Errorf("%d: no error", fault.Status)
		}
		leaks(t, &log, err, "canary", "as the test wants it")
	}
}

func TestIdentityTokensAreExchanged(t *testing.T) {
	r := startRegistry(t)
	r.Push("a", "t", imageOf([]byte("x")).Bundle())
	r.RequireBearer("me", "canary-identity")
	path := filepath.Join(t.TempDir(), "auth.json")
	writeFile(t, path, fmt.Sprintf(`{"auths":{%q:{"identitytoken":"canary-identity"}}}`, r.Host()), 0o600)
	f, _ := newFetcher(t, Options{Authfile: path})
	resolve(t, f, r.Host()+"/a:t")
	for _, q := range r.Requests(nil) {
		if strings.Contains(q.Query+q.Authorization, "canary") {
			t.Errorf("the token is in %+v", q)
		}
	}
}
