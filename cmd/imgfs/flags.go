package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"imgfs/cache"
	"imgfs/fetcher"
)

// imageFlags are the flags of every command that takes a reference.
type imageFlags struct {
	cacheFlags
	networkFlags
	platform, creds  string
	offline, foreign bool
	anew             bool // documents are fetched, whatever the cache has; no flag
	memory           byteSize
}

func (f *imageFlags) add(s *pflag.FlagSet) {
	f.cacheFlags.add(s)
	f.networkFlags.add(s)
	s.StringVar(&f.platform, "platform", "", "platform of the image, os/arch[/variant] (default: this machine's)")
	addCreds(s, &f.creds)
	s.BoolVar(&f.foreign, "allow-foreign-layers", false, "fetch layers from URLs outside of the registry, where a manifest gives them, without credentials")
	s.BoolVar(&f.offline, "offline", false, "use the cache only, no network")
}

func addCreds(s *pflag.FlagSet, creds *string) {
	s.StringVar(creds, "creds", "", "registry credentials, USER:PASSWORD (others can see a command line: --authfile keeps them from it)")
}

// addMemory adds the flag of those commands that read file content.
func (f *imageFlags) addMemory(s *pflag.FlagSet) {
	f.memory = 64 << 20
	s.Var(&f.memory, "memory", "memory for decoded data, like 64MiB")
}

func (f *imageFlags) options(a *app, store fetcher.Store) *fetcher.Options {
	o := f.networkFlags.options(a)
	o.Platform, o.Creds, o.Offline, o.AllowForeign = f.platform, f.creds, f.offline, f.foreign
	if !f.anew {
		o.Store = store
	}
	return o
}

// networkFlags are the flags of every command that asks registries.
type networkFlags struct {
	authfile, certDir, registriesConf, hostsDir string
	tlsVerify                                   bool
}

func (f *networkFlags) add(s *pflag.FlagSet) {
	s.StringVar(&f.authfile, "authfile", "", "file with registry credentials (default: podman's and docker's files)")
	s.StringVar(&f.certDir, "cert-dir", "", "directory with CA certificates (*.crt) and client certificates (*.cert, *.key) (default: docker's and podman's certs.d)")
	s.StringVar(&f.registriesConf, "registries-conf", "", "mirrors and locations of registries (default: $CONTAINERS_REGISTRIES_CONF, podman's registries.conf)")
	s.StringVar(&f.hostsDir, "hosts-dir", "", "directory with HOST/hosts.toml for mirrors of registries (default: containerd's certs.d)")
	s.BoolVar(&f.tlsVerify, "tls-verify", true, "require HTTPS with a valid certificate; --tls-verify=false also allows plain HTTP (which loopback always may)")
}

func (f *networkFlags) options(a *app) *fetcher.Options {
	return &fetcher.Options{
		Authfile: f.authfile, CertDir: f.certDir, RegistriesConf: f.registriesConf, HostsDir: f.hostsDir,
		TLSVerify: &f.tlsVerify, UserAgent: "imgfs/" + programVersion(), Log: a.log,
	}
}

// cacheFlags are the flags of every command that uses the cache.
type cacheFlags struct {
	dir        string
	size, free byteSize // unset: see limits
}

func (f *cacheFlags) add(s *pflag.FlagSet) {
	f.size, f.free = unset, unset
	s.StringVar(&f.dir, "cache-dir", "", "where layers and their indexes are kept (default: $IMGFS_CACHE_DIR, $XDG_CACHE_HOME/imgfs, ~/.cache/imgfs)")
	s.Var(&f.size, "cache-size", "what the cache may take on disk, like 20GiB; 0: any amount (default: $IMGFS_CACHE_SIZE, 20GiB)")
	s.Var(&f.free, "cache-free", "what the cache leaves free on its file system (default: 5% of it, 2GiB at most)")
}

// defaultCacheSize is what the cache may take if nobody says otherwise.
const defaultCacheSize = byteSize(20 << 30)

// limits are the bounds of the cache.
func (f *cacheFlags) limits() (cache.Limits, error) {
	size := f.size
	if env := os.Getenv("IMGFS_CACHE_SIZE"); size == unset && env != "" {
		if err := size.Set(env); err != nil {
			return cache.Limits{}, usageError{fmt.Errorf("IMGFS_CACHE_SIZE: %w", err)}
		}
	}
	if size == unset {
		size = defaultCacheSize
	}
	return cache.Limits{Size: int64(size), Free: int64(f.free)}, nil
}

// path is the cache directory.
func (f *cacheFlags) path() (string, error) {
	if f.dir != "" {
		return filepath.Abs(f.dir)
	}
	if dir := os.Getenv("IMGFS_CACHE_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", usageError{fmt.Errorf("no place for the cache: %w; use --cache-dir", err)}
	}
	return filepath.Join(dir, "imgfs"), nil
}

// A byteSize is a number of bytes as a flag: 134217728, 128MiB, 128M, 1GiB.
type byteSize int64

// unset is the size of a flag that is not given. It is negative, which for [cache.Limits] stands for a default.
const unset = byteSize(-1)

func (s *byteSize) String() string {
	if *s == unset {
		return ""
	}
	n, unit := int64(*s), 0
	for ; n >= 1024 && n%1024 == 0 && unit < 4; unit++ {
		n /= 1024
	}
	return strconv.FormatInt(n, 10) + [...]string{"", "KiB", "MiB", "GiB", "TiB"}[unit]
}

func (s *byteSize) Type() string { return "SIZE" }

func (s *byteSize) Set(v string) error {
	digits := strings.TrimRight(v, "KMGTiBkmgtb ")
	unit := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(strings.TrimSpace(v[len(digits):])), "B"), "I")
	shift, ok := map[string]int{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[unit]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 0 || n > 1<<60>>shift {
		return fmt.Errorf("%q is not a size like 128MiB", v)
	}
	*s = byteSize(n << shift)
	return nil
}

// bundleFlags are the flags of the commands that write images elsewhere.
type bundleFlags struct {
	imageFlags
	all bool
}

func (f *bundleFlags) add(s *pflag.FlagSet) {
	f.imageFlags.add(s)
	s.BoolVar(&f.all, "all", false, "the whole index, with its images for all platforms and what is said of them")
}

// registryFlags are those for the registry that is written to.
type registryFlags struct {
	creds, certDir string
	tlsVerify      bool
}

func (f *registryFlags) add(s *pflag.FlagSet) {
	s.StringVar(&f.creds, "dest-creds", "", "credentials for the registry that is written to, USER:PASSWORD")
	s.StringVar(&f.certDir, "dest-cert-dir", "", "certificates for the registry that is written to, as --cert-dir")
	s.BoolVar(&f.tlsVerify, "dest-tls-verify", true, "the same as --tls-verify, for the registry that is written to")
}

func (f *registryFlags) options(a *app, source *imageFlags) *fetcher.Options {
	o := source.networkFlags.options(a)
	o.Creds, o.CertDir, o.TLSVerify, o.Offline = f.creds, f.certDir, &f.tlsVerify, source.offline
	return o
}
