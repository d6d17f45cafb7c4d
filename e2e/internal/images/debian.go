package images

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"imgfs/e2e/internal/peer"
)

// suite is the Debian release that the images are made of.
const suite = "bookworm"

// debianSources returns the package sources of this machine that are
// Debian's own, in the one-line form of sources.list: the images come from
// the mirror that the machine is set up to use.
func debianSources(ctx context.Context) ([]string, error) {
	out, err := peer.Run(ctx, "apt-get", "indextargets",
		"--format", "$(CREATED_BY) $(ORIGIN) $(REPO_URI) $(CODENAME) $(COMPONENT)")
	if err != nil {
		return nil, err
	}
	var sources []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 5 || f[0] != "Packages" || f[1] != "Debian" || !strings.HasPrefix(f[3], suite) {
			continue
		}
		source := fmt.Sprintf("deb %s %s %s", f[2], f[3], f[4])
		if !slices.Contains(sources, source) {
			sources = append(sources, source)
		}
	}
	if len(sources) == 0 {
		return nil, fmt.Errorf("apt of this machine has no Debian source of %s (has apt-get update been run?)", suite)
	}
	return sources, nil
}

// bootstrap makes the tar of a minimal Debian.
func bootstrap(ctx context.Context, tar string) error {
	sources, err := debianSources(ctx)
	if err != nil {
		return err
	}
	args := append([]string{"--quiet", "--mode=root", "--variant=minbase", "--format=tar", suite, tar}, sources...)
	_, err = peer.Run(ctx, "mmdebstrap", args...)
	return err
}
