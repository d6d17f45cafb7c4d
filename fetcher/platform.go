package fetcher

import (
	"runtime"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// parsePlatform parses os/arch[/variant]; "" is the host's.
func parsePlatform(s string) (v1.Platform, error) {
	if s == "" {
		return v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}, nil
	}
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return v1.Platform{}, errorf(ErrOptions, "%q is not a platform: it has to be os/arch or os/arch/variant", s)
	}
	p := v1.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

func platformString(p v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// normal returns p with the names that have several spellings spelled in one
// way, as containerd does (github.com/containerd/platforms). The variant that
// every machine of an architecture has is "".
func normal(p v1.Platform) v1.Platform {
	p.OS, p.Architecture, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	case "i386", "i486", "i586", "i686":
		p.Architecture = "386"
	}
	if len(p.Variant) == 1 && p.Variant[0] >= '0' && p.Variant[0] <= '9' {
		p.Variant = "v" + p.Variant
	}
	switch {
	case p.Architecture == "amd64" && p.Variant == "v1", p.Architecture == "arm64" && p.Variant == "v8":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// variants lists, best first, what a machine of a variant can run.
var variants = map[string][]string{
	"amd64": {"v4", "v3", "v2", ""},
	"arm":   {"v8", "v7", "v6", "v5"},
}

// choices returns the platforms that serve whoever wants p, best first.
func choices(p v1.Platform) []v1.Platform {
	p = normal(p)
	all := []v1.Platform{p}
	list := variants[p.Architecture]
	if i := slices.Index(list, p.Variant); i >= 0 {
		for _, v := range list[i+1:] {
			all = append(all, v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: v})
		}
	}
	if p.Architecture == "arm64" {
		if p.Variant != "" { // a newer one
			all = append(all, v1.Platform{OS: p.OS, Architecture: "arm64"})
		}
		for _, v := range variants["arm"] {
			all = append(all, v1.Platform{OS: p.OS, Architecture: "arm", Variant: v})
		}
	}
	return all
}

// rank says how well have serves whoever wants one of the choices: the less
// the better, -1 not at all.
func rank(choices []v1.Platform, have v1.Platform) int {
	have = normal(have)
	return slices.IndexFunc(choices, func(c v1.Platform) bool {
		return c.OS == have.OS && c.Architecture == have.Architecture && c.Variant == have.Variant
	})
}
