package fetcher

import (
	"os"
	"path/filepath"
)

// paths are where other tools' configurations of registries are. They are
// absolute: whoever fetches may change the directory in between.
type paths struct {
	registries   string   // registries.conf; it may be absent if it was not named by the user
	named        bool     // the user named it
	registryDirs []string // registries.conf.d: *.conf in each, in that order
	hostDirs     []string // containerd's: HOST/hosts.toml in the first that has it
	certDirs     []string // docker's and podman's certs.d: HOST in the first that has it
}

// findPaths returns the paths that podman, docker and containerd have, and
// those of the options and the environment before them. Etc is /etc.
func findPaths(o *Options, etc string) (paths, error) {
	config := os.Getenv("XDG_CONFIG_HOME")
	home, _ := os.UserHomeDir()
	if config == "" && home != "" {
		config = filepath.Join(home, ".config")
	}
	// inUser returns a path of the user's own, if there is one, and then etc's.
	both := func(name ...string) []string {
		path := filepath.Join(name...)
		if config == "" {
			return []string{filepath.Join(etc, path)}
		}
		return []string{filepath.Join(config, path), filepath.Join(etc, path)}
	}
	p := paths{
		certDirs: append(both("containers", "certs.d"), both("docker", "certs.d")...),
		hostDirs: append(both("containerd", "certs.d"), filepath.Join(etc, "docker", "certs.d")),
	}
	dirs := both("containers", "registries.conf.d")
	for i := len(dirs) - 1; i >= 0; i-- { // the user's come last, and win
		p.registryDirs = append(p.registryDirs, dirs[i])
	}
	p.registries = firstOf(o.RegistriesConf, os.Getenv("CONTAINERS_REGISTRIES_CONF"))
	p.named = p.registries != ""
	if !p.named {
		files := both("containers", "registries.conf")
		p.registries = files[len(files)-1]
		if _, err := os.Stat(files[0]); err == nil && len(files) > 1 {
			p.registries = files[0]
			p.registryDirs = p.registryDirs[1:] // as podman: not the system's with the user's file
		}
	}
	if o.HostsDir != "" {
		p.hostDirs = []string{o.HostsDir}
	}
	return p, p.absolute()
}

func firstOf(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}

func (p *paths) absolute() (err error) {
	all := []*string{&p.registries}
	for _, dirs := range [][]string{p.registryDirs, p.hostDirs, p.certDirs} {
		for i := range dirs {
			all = append(all, &dirs[i])
		}
	}
	for _, path := range all {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	return nil
}
