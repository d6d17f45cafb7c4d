package fetcher

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"golang.org/x/sys/unix"
)

// maxAuthFile bounds a credentials file that is changed.
const maxAuthFile = 16 << 20

// keep stores credentials, and returns where.
func (f *Fetcher) keep(ctx context.Context, registry, key string, creds types.AuthConfig) (string, error) {
	for _, file := range f.authFiles {
		c, err := file.load()
		if errors.Is(err, fs.ErrNotExist) {
			break // it is needed, and will be made
		}
		if err != nil {
			return "", fmt.Errorf("credentials file %s: %w", file.path, err)
		}
		if c == nil {
			continue
		}
		helper := firstOf(ownHelper(c, registry), c.CredentialsStore)
		if helper != "" && key == registry {
			return helperPrefix + helper, tellHelper(ctx, helper, helperServer(registry), creds)
		}
		for _, name := range keyNames(registry, key) { // in the order in which they count
			if _, ok := c.AuthConfigs[name]; ok {
				return file.path, file.set(name, creds)
			}
		}
	}
	var failed error
	for _, file := range f.authFiles {
		err := file.set(key, creds)
		if err == nil {
			return file.path, nil
		}
		if failed == nil {
			failed = fmt.Errorf("credentials file %s: %w", file.path, err)
		}
		if file.needed {
			break
		}
	}
	return "", failed
}

// keyNames returns the names that a key goes by in files.
func keyNames(registry, key string) []string {
	if key == registry {
		return registryKeys(registry)
	}
	return []string{key}
}

// A kept is what a file has, or a helper that it names.
type kept struct {
	where  string
	forget func() error
}

// stored returns what a file has under key, and what its helper has, in the order in which that counts.
func (a authFile) stored(ctx context.Context, registry, key string) ([]kept, error) {
	c, err := a.load()
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil || c == nil {
		return nil, err
	}
	var all []kept
	if names := storedNames(c, registry, key); len(names) > 0 {
		all = append(all, kept{a.path, func() error { return a.remove(names) }})
	}
	own := ownHelper(c, registry)
	helper := firstOf(own, c.CredentialsStore)
	if helper == "" || key != registry {
		return all, nil
	}
	found, err := askHelper(ctx, helper, helperServer(registry))
	if err != nil && len(all) > 0 {
		return all, nil // it is not in the way of forgetting those
	}
	if err != nil || found == (types.AuthConfig{}) {
		return all, err
	}
	k := kept{helperPrefix + helper, func() error {
		_, err := runHelper(ctx, helper, "erase", helperServer(registry))
		return err
	}}
	if own != "" {
		return append([]kept{k}, all...), nil
	}
	return append(all, k), nil
}

// storedNames returns all names under which a file has what counts for key, URLs of the registry among them.
func storedNames(c *configfile.ConfigFile, registry, key string) []string {
	var names []string
	for name, auth := range c.AuthConfigs {
		host := hostOfURL(name)
		of := slices.Contains(keyNames(registry, key), name) || key == registry && host != "" && slices.Contains(registryKeys(registry), host)
		if of && secretsOf(auth) != (types.AuthConfig{}) {
			names = append(names, name)
		}
	}
	return names
}

// set stores credentials under key, as podman and docker do.
func (a authFile) set(key string, c types.AuthConfig) error {
	auth := base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
	return a.edit(func(auths map[string]json.RawMessage) error {
		entry, err := json.Marshal(struct {
			Auth string `json:"auth"`
		}{auth})
		auths[key] = entry
		return err
	})
}

func (a authFile) remove(keys []string) error {
	return a.edit(func(auths map[string]json.RawMessage) error {
		for _, key := range keys {
			delete(auths, key)
		}
		return nil
	})
}

// edit changes the entries of the file, which is made where there is none. It
// appears whole, readable for its owner alone; what else is in it stays. A lock
// on its directory keeps others of us out meanwhile.
func (a authFile) edit(change func(auths map[string]json.RawMessage) error) error {
	path := a.path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock of %s: %w", dir, err)
	}
	b, err := readAuthFile(path)
	if err != nil {
		return err
	}
	if b, err = editAuths(b, change); err != nil {
		return err
	}
	return replaceFile(path, b)
}

func readAuthFile(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return []byte("{}"), nil
	}
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxAuthFile {
		return nil, errors.New("it is not a file of a reasonable size")
	}
	b, err := os.ReadFile(path)
	if len(bytes.TrimSpace(b)) == 0 {
		b = []byte("{}")
	}
	return b, err
}

func editAuths(b []byte, change func(auths map[string]json.RawMessage) error) ([]byte, error) {
	var doc, auths map[string]json.RawMessage
	if json.Unmarshal(b, &doc) != nil || doc == nil {
		return nil, errors.New("it is not a JSON object")
	}
	if old := doc["auths"]; old != nil && json.Unmarshal(old, &auths) != nil {
		return nil, errors.New("its auths are not a JSON object")
	}
	if auths == nil {
		auths = map[string]json.RawMessage{}
	}
	if err := change(auths); err != nil {
		return nil, err
	}
	entries, err := json.Marshal(auths)
	if err != nil {
		return nil, err
	}
	doc["auths"] = entries
	b, err = json.MarshalIndent(doc, "", "\t")
	return append(b, '\n'), err
}

// replaceFile puts a file in the place of path, at once.
func replaceFile(path string, b []byte) error {
	t, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(t.Name()) // fails once it has been renamed
	if old, statErr := os.Stat(path); statErr == nil {
		err = keepOwner(t, old)
	}
	if err == nil {
		_, err = t.Write(b)
	}
	if err == nil {
		err = t.Sync()
	}
	if closed := t.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(t.Name(), path)
}

// keepOwner gives a file the owner of the one that it is to replace: root may change a user's.
func keepOwner(file *os.File, old fs.FileInfo) error {
	st, ok := old.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) == os.Geteuid() {
		return nil
	}
	return file.Chown(int(st.Uid), int(st.Gid))
}
