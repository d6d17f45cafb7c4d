package fetcher

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTheConfigurationIsReadAndWhatIsWrongWithItNamed(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"} {
		t.Setenv(name, dir)
	}
	t.Setenv("REGISTRY_AUTH_FILE", "")
	put := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	want := []string{
		put("registries.conf", "[[registry]]\nlocation = \"reg.example\"\n"),
		put("hosts/reg.example_5000_/hosts.toml", "server = \"https://reg.example\"\n"),
		put("auth.json", `{"auths": {"reg.example": {"auth": "dXNlcjpzZWNyZXQ="}}}`),
	}
	o := &Options{RegistriesConf: want[0], HostsDir: filepath.Join(dir, "hosts"), Authfile: want[2]}
	check := func() ([]string, error) {
		t.Helper()
		f, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		return f.CheckConfiguration()
	}
	if got, err := check(); err != nil || !slices.Equal(got, want) {
		t.Errorf("the files are %q (%v), want %q", got, err, want)
	}
	put("registries.conf", "[[registry]]\nlocation = \n")
	put("hosts/reg.example_5000_/hosts.toml", "server = 1\n")
	put("auth.json", `{"auths": {"reg.example": {"auth": "c2VjcmV0`)
	got, err := check()
	if !errors.Is(err, ErrOptions) || len(got) > 0 {
		t.Errorf("the files are %q, the error is %v", got, err)
	}
	for _, say := range append(want, "line 2") {
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("the error does not say %q: %v", say, err)
		}
	}
	if err != nil && strings.Contains(err.Error(), "c2VjcmV0") {
		t.Errorf("the error has a secret: %v", err)
	}
}
