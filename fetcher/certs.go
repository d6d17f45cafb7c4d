package fetcher

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// certFiles are the files of what TLS takes at one place.
type certFiles struct {
	authorities []string    // trusted beside the system's
	clients     [][2]string // certificate and key; a key of "" is in the certificate's file
}

// certsIn finds the files of a directory, as docker reads those in certs.d:
// *.crt are authorities, NAME.cert and NAME.key are a client certificate.
func certsIn(dir string) (certFiles, error) {
	var c certFiles
	entries, err := os.ReadDir(dir)
	if err != nil {
		return c, fmt.Errorf("certificates: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(e.Name()) {
		case ".crt":
			c.authorities = append(c.authorities, path)
		case ".cert":
			c.clients = append(c.clients, [2]string{path, strings.TrimSuffix(path, ".cert") + ".key"})
		}
	}
	return c, nil
}

// load reads the files.
func (c certFiles) load() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(c.authorities) > 0 {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		for _, path := range c.authorities {
			pem, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("certificates: %w", err)
			}
			if !roots.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("certificates: %s has no certificate in it", path)
			}
		}
		config.RootCAs = roots
	}
	for _, pair := range c.clients {
		if pair[1] == "" {
			pair[1] = pair[0]
		}
		cert, err := tls.LoadX509KeyPair(pair[0], pair[1])
		if err != nil {
			return nil, fmt.Errorf("client certificate %s: %w", pair[0], err)
		}
		config.Certificates = append(config.Certificates, cert)
	}
	return config, nil
}

// certs returns what TLS takes at the endpoint of that name: what is in
// Options.CertDir, which has client certificates for registries and not for
// mirrors, or else in the first directory of that name in one of certDirs.
func (f *Fetcher) certs(name string, mirror bool) (certFiles, error) {
	if f.opts.CertDir != "" {
		c, err := certsIn(f.opts.CertDir)
		if mirror {
			c.clients = nil
		}
		return c, err
	}
	for _, dir := range f.paths.certDirs {
		for _, host := range []string{name, apiHost(name)} {
			c, err := certsIn(filepath.Join(dir, host))
			if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
				return c, err
			}
		}
	}
	return certFiles{}, nil
}
