package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"golang.org/x/sys/unix"
)

// credentials returns what to authenticate with for a repository at e:
// Options.Creds, or else what the first of the files of authFiles has that
// knows the registry, or else nothing. In a file, a helper for the registry
// comes first, then the longest key in auths that the repository is below (as
// podman reads it), then the general helper. For a mirror it is always what the
// files have for the mirror's own host.
func (f *Fetcher) credentials(ctx context.Context, e *endpoint, repo string) (types.AuthConfig, error) {
	if f.opts.Creds != "" && !e.mirror {
		user, password, _ := strings.Cut(f.opts.Creds, ":")
		return types.AuthConfig{Username: user, Password: password}, nil
	}
	for _, file := range f.authFiles {
		found, err := file.credentials(ctx, e.name, repo)
		if err != nil {
			return types.AuthConfig{}, fmt.Errorf("credentials file %s: %w", file.path, err)
		}
		if found != (types.AuthConfig{}) {
			f.log.Debug("credentials found", "file", file.path, "registry", e.name)
			return found, nil
		}
	}
	return types.AuthConfig{}, nil
}

// An authFile is a file with credentials, in the format that docker and podman share.
type authFile struct {
	path   string
	needed bool // the user named it: it has to be there
}

// authFiles returns where credentials are looked for, in order. The paths are
// absolute: whoever fetches may change the directory in between.
func authFiles(explicit string) ([]authFile, error) {
	var files []authFile
	var failed error
	add := func(needed bool, dir string, more ...string) {
		if dir == "" {
			return
		}
		path, err := filepath.Abs(filepath.Join(append([]string{dir}, more...)...))
		if err != nil {
			failed = err
		}
		files = append(files, authFile{path, needed})
	}
	home, _ := os.UserHomeDir()
	under := func(env, fallback string) string {
		if dir := os.Getenv(env); dir != "" || home == "" {
			return dir
		}
		return filepath.Join(home, fallback)
	}
	add(true, explicit)
	add(true, os.Getenv("REGISTRY_AUTH_FILE"))
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		add(false, dir, "containers", "auth.json")
	} else {
		add(false, "/run/containers", strconv.Itoa(os.Getuid()), "auth.json")
	}
	add(false, under("XDG_CONFIG_HOME", ".config"), "containers", "auth.json")
	add(false, under("DOCKER_CONFIG", ".docker"), "config.json")
	return files, failed
}

func (a authFile) credentials(ctx context.Context, registry, repo string) (types.AuthConfig, error) {
	c, err := a.load()
	if err != nil || c == nil {
		return types.AuthConfig{}, err
	}
	if helper := ownHelper(c, registry); helper != "" {
		found, err := askHelper(ctx, helper, helperServer(registry))
		if err != nil || found != (types.AuthConfig{}) {
			return found, err
		}
	}
	if found := longestMatch(c.AuthConfigs, registry, repo); found != (types.AuthConfig{}) {
		return found, nil
	}
	if c.CredentialsStore != "" {
		return askHelper(ctx, c.CredentialsStore, helperServer(registry))
	}
	return types.AuthConfig{}, nil
}

// ownHelper returns the helper that c has for a registry; "" if none.
func ownHelper(c *configfile.ConfigFile, registry string) string {
	for _, key := range registryKeys(registry) {
		if helper := c.CredentialHelpers[key]; helper != "" {
			return helper
		}
	}
	return ""
}

// load returns nil where there is no file, and none is needed.
func (a authFile) load() (*configfile.ConfigFile, error) {
	file, err := os.Open(a.path)
	switch {
	case err != nil && a.needed:
		return nil, fmt.Errorf("%w: %w", ErrOptions, errors.Unwrap(err))
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil, nil
	case err != nil:
		return nil, errors.Unwrap(err)
	}
	defer file.Close()
	return config.LoadFromReader(file)
}

// longestMatch returns the credentials of the longest key that names the
// repository, something it is below, or its registry.
func longestMatch(auths map[string]types.AuthConfig, registry, repo string) types.AuthConfig {
	byKey := make(map[string]types.AuthConfig, len(auths))
	for _, key := range slices.Sorted(maps.Keys(auths)) {
		found := secretsOf(auths[key])
		if found == (types.AuthConfig{}) {
			continue // docker leaves such an entry where a helper has the rest
		}
		byKey[key] = found
		// docker login once wrote URLs as keys, and still does for the Hub, where it has tokens of its own below the
		// one that counts.
		if host := hostOfURL(key); host != "" {
			_, plain := auths[host]
			if _, shorter := byKey[host]; !plain && !shorter {
				byKey[host] = found
			}
		}
	}
	for _, key := range append(repositoryKeys(registry, repo), registryKeys(registry)...) {
		if found, ok := byKey[key]; ok {
			return found
		}
	}
	return types.AuthConfig{}
}

// secretsOf returns what of an entry is for authentication.
func secretsOf(a types.AuthConfig) types.AuthConfig {
	return types.AuthConfig{
		Username: a.Username, Password: a.Password,
		IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
	}
}

// hostOfURL returns host:port of a key that is a URL, "" for others.
func hostOfURL(key string) string {
	_, rest, ok := strings.Cut(key, "://")
	if !ok {
		return ""
	}
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// repositoryKeys returns the keys for a repository and all it is below,
// without the registry itself, the longest first.
func repositoryKeys(registry, repo string) []string {
	var keys []string
	for p := repo; p != "." && p != ""; p = path.Dir(p) {
		for _, key := range registryKeys(registry) {
			keys = append(keys, key+"/"+p)
		}
	}
	return keys
}

// hubKey is what docker keeps credentials for the Hub under.
const hubKey = "https://index.docker.io/v1/"

// registryKeys returns the keys that a registry goes by. The Docker Hub has several.
func registryKeys(registry string) []string {
	if isHub(registry) {
		return []string{hub, "index.docker.io", hubKey, hubHost}
	}
	return []string{registry}
}

// helperServer returns the name under which helpers keep a registry.
func helperServer(registry string) string {
	if isHub(registry) {
		return hubKey
	}
	return registry
}
