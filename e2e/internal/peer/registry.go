package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// User and Password are what a registry that was started with Auth asks for.
const (
	User     = "tester"
	Password = "secret"
)

// htpasswd is the registry's user file: the bcrypt hash (at the lowest cost) of Password.
const htpasswd = User + ":$2y$04$ofsxEWzJmDrv73P5Tf4TPObV8V/coV5LL4uhvzfUJkibS2a2WobZC\n"

// registryListens is the line that docker-registry logs when it can be asked.
var registryListens = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

// RegistryOptions says what kind of registry is wanted. nil is the open one.
type RegistryOptions struct {
	Auth bool // ask for User and Password (basic)
	// Htpasswd, if it is not empty, is the file of users in the place of that one.
	Htpasswd string
	Addr     string // where to listen; a free loopback port when empty
	// Foreign, if it is not empty, is a regular expression of the URLs that layers may be at, which are not pushed then.
	Foreign string
}

// Registry is a running docker-registry.
type Registry struct {
	Addr string // host:port, to be talked to by plain HTTP
	d    *daemon
}

// StartRegistry starts a docker-registry on a loopback port. What is pushed
// to it is kept below dir, and found again by a registry started there later.
func StartRegistry(ctx context.Context, dir string, o *RegistryOptions) (*Registry, error) {
	if o == nil {
		o = &RegistryOptions{}
	}
	config, err := writeRegistryConfig(dir, o)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	d, m, err := startDaemon(ctx, cmd, registryListens)
	if err != nil {
		return nil, err
	}
	return &Registry{Addr: m[1], d: d}, nil
}

// Stop ends the registry. From then on its port refuses connections.
func (r *Registry) Stop() { r.d.stop() }

func writeRegistryConfig(dir string, o *RegistryOptions) (string, error) {
	addr := o.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	config := fmt.Sprintf(`version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}, cache: {blobdescriptor: inmemory}}
http: {addr: %q}
compatibility: {schema1: {enabled: true}}
`, filepath.Join(dir, "data"), addr)
	if o.Auth || o.Htpasswd != "" {
		users, text := filepath.Join(dir, "htpasswd"), htpasswd
		if o.Htpasswd != "" {
			text = o.Htpasswd
		}
		if err := os.WriteFile(users, []byte(text), 0o600); err != nil {
			return "", err
		}
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}\n", users)
	}
	if o.Foreign != "" {
		config += fmt.Sprintf("validation: {manifests: {urls: {allow: [%q]}}}\n", o.Foreign)
	}
	file := filepath.Join(dir, "config.yml")
	return file, os.WriteFile(file, []byte(config), 0o600)
}

// Copy copies an image from one place to another with skopeo. The references
// are skopeo's: docker://…, oci:DIR:TAG. Registries are talked to by plain HTTP.
// Options come before the references, as skopeo wants them.
func Copy(ctx context.Context, from, to string, options ...string) error {
	args := []string{"copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"}
	args = append(append(args, options...), from, to)
	_, err := Run(ctx, "skopeo", args...)
	return err
}
