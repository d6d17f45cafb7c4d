package fetcher

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// CheckConfiguration reads all that is configured of registries on this
// machine, credentials included, and returns the files that there are. No
// helper is asked and no certificate loaded. Errors wrap ErrOptions and name
// the files that are of no use.
func (f *Fetcher) CheckConfiguration() (files []string, err error) {
	var failed []error
	check := func(path string, err error) {
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			failed = append(failed, err)
		default:
			files = append(files, path)
		}
	}
	if _, err := f.paths.loadRegistries(f.log); err != nil {
		failed = append(failed, err)
	} else {
		_, err := os.Stat(f.paths.registries)
		check(f.paths.registries, err)
	}
	for _, dir := range f.paths.hostDirs {
		hosts, _ := filepath.Glob(filepath.Join(escapeGlob(dir), "*", "hosts.toml")) // the pattern is a good one
		for _, path := range hosts {
			check(path, checkHosts(path))
		}
	}
	for _, file := range f.authFiles {
		config, err := file.load()
		if err != nil {
			err = errorf(ErrOptions, "credentials file %s: %v", file.path, err)
		} else if config == nil {
			continue
		}
		check(file.path, err)
	}
	return files, errors.Join(failed...)
}

func checkHosts(path string) error {
	b, err := readConf(path)
	if err == nil {
		_, err = parseHosts(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errorf(ErrOptions, "%s: %v", path, err)
	}
	return err
}
