package fetcher

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxConf bounds a configuration file.
const maxConf = 4 << 20

// registriesConf is a file of containers-registries.conf(5), version 2. What is
// not in here is for other tools: short names are completed as Docker does.
type registriesConf struct {
	Registries []registryConf `toml:"registry"`
}

// A registryConf says where images whose names have a prefix are.
type registryConf struct {
	Prefix             string
	Location           string
	Insecure           bool
	Blocked            bool
	MirrorByDigestOnly bool `toml:"mirror-by-digest-only"`
	Mirrors            []struct {
		Location string
		Insecure bool
		Pull     string `toml:"pull-from-mirror"`
	} `toml:"mirror"`

	file string // where it is from
}

// Values of pull-from-mirror.
const (
	pullAll        = "all"
	pullDigestOnly = "digest-only"
	pullTagOnly    = "tag-only"
)

// loadRegistries reads registries.conf, and what is in the directories beside
// it. Of entries with the same prefix the last one counts.
func (p paths) loadRegistries(log *slog.Logger) ([]registryConf, error) {
	files := []string{p.registries}
	for _, dir := range p.registryDirs {
		more, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*.conf"))
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	var all []registryConf
	for i, file := range files {
		more, err := readRegistries(file, log)
		if errors.Is(err, fs.ErrNotExist) && (i > 0 || !p.named) {
			continue
		}
		if err != nil {
			return nil, errorf(ErrOptions, "registries: %v", err)
		}
		for _, r := range more {
			all = slices.DeleteFunc(all, func(old registryConf) bool { return old.Prefix == r.Prefix && old.file != r.file })
			all = append(all, r)
		}
	}
	return all, nil
}

// escapeGlob makes a pattern that matches path alone.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func readRegistries(file string, log *slog.Logger) ([]registryConf, error) {
	b, err := readConf(file)
	if err != nil {
		return nil, err
	}
	var c registriesConf
	meta, err := decodeTOML(b, &c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if meta.IsDefined("registries") {
		log.Warn("a configuration of registries has entries of version 1, which are ignored", "file", file)
	}
	for i := range c.Registries {
		r := &c.Registries[i]
		r.file = file
		if err := r.complete(); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return c.Registries, nil
}

// readConf reads a file of bounded size.
func readConf(file string) ([]byte, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxConf {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, maxConf)
	}
	return os.ReadFile(file)
}

// decodeTOML decodes a file. Its errors say where and what is wrong, and quote no value: it may be a header with a secret.
func decodeTOML(b []byte, to any) (toml.MetaData, error) {
	meta, err := toml.Decode(string(b), to)
	if wrong := (toml.ParseError{}); errors.As(err, &wrong) {
		what, _, _ := strings.Cut(wrong.Message, `"`)
		err = fmt.Errorf("line %d: %s", wrong.Position.Line, strings.TrimRight(what, " :"))
	}
	return meta, err
}

// complete checks r, and fills in what it leaves to defaults.
func (r *registryConf) complete() error {
	if r.Prefix == "" {
		r.Prefix = r.Location
	}
	subdomains := strings.HasPrefix(r.Prefix, "*.")
	if r.Location == "" && !subdomains {
		r.Location = r.Prefix
	}
	locations := []string{r.Prefix, r.Location}
	for i := range r.Mirrors {
		m := &r.Mirrors[i]
		switch {
		case m.Pull == "":
			m.Pull = pullAll
		case !slices.Contains([]string{pullAll, pullDigestOnly, pullTagOnly}, m.Pull):
			return fmt.Errorf("pull-from-mirror of %s is %q, which is not all, digest-only or tag-only", m.Location, m.Pull)
		case r.MirrorByDigestOnly:
			return fmt.Errorf("%s has mirror-by-digest-only, and a mirror with pull-from-mirror", r.Prefix)
		}
		if r.MirrorByDigestOnly {
			m.Pull = pullDigestOnly
		}
		if m.Location == "" {
			return fmt.Errorf("a mirror of %s has no location", r.Prefix)
		}
		locations = append(locations, m.Location)
	}
	switch {
	case r.Prefix == "":
		return errors.New("a registry has neither prefix nor location")
	case subdomains && strings.ContainsAny(r.Prefix[2:], "*/:@"), !subdomains && strings.Contains(r.Prefix, "*"):
		return fmt.Errorf("%q is not a prefix: a star stands for subdomains, at the beginning of a host", r.Prefix)
	}
	for _, l := range locations {
		if strings.Contains(l, "://") || strings.HasSuffix(l, "/") {
			return fmt.Errorf("%q has to be a name, without a scheme or a slash at its end", l)
		}
	}
	return nil
}

// match returns how much of a reference's name the prefix stands for; 0 if the
// name has another one.
func (r *registryConf) match(name string) int {
	if domain, ok := strings.CutPrefix(r.Prefix, "*"); ok {
		host, _, _ := strings.Cut(name, "/")
		bare, _, _ := strings.Cut(host, ":")
		if strings.HasSuffix(bare, domain) {
			return len(bare)
		}
		return 0
	}
	rest, ok := strings.CutPrefix(name, r.Prefix)
	ends := rest == "" || rest[0] == '/' || rest[0] == '@' || rest[0] == ':' && strings.Contains(r.Prefix, "/")
	if !ok || !ends {
		return 0
	}
	return len(r.Prefix)
}

// findRegistry returns the entry with the longest prefix that a name has; nil if none.
func findRegistry(all []registryConf, name string) *registryConf {
	var best *registryConf
	longest := 0
	for i := range all {
		r := &all[i]
		n := r.match(name)
		exact := n == longest && n > 0 && !strings.HasPrefix(r.Prefix, "*")
		if n > longest || exact {
			best, longest = r, n
		}
	}
	return best
}

// rewrite returns ref with the prefix of r replaced by a location.
func (r *registryConf) rewrite(ref Reference, location string) (Reference, error) {
	if location == "" {
		return ref, nil
	}
	name := ref.Name()
	to, err := parseDocker(location + name[r.match(name):])
	host, _, _ := strings.Cut(location, "/")
	got, _, _ := strings.Cut(to.repository, "/")
	if err != nil || got != host || to.tag != ref.tag || to.digest != ref.digest {
		return Reference{}, errorf(ErrOptions, "registries: %s: location %q makes no name of %s", r.file, location, name)
	}
	return to, nil
}
