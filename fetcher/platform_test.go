package fetcher

import (
	"strings"
	"testing"
)

func TestAMachineRunsWhatItsForerunnersRan(t *testing.T) {
	for wanted, want := range map[string]string{
		"linux/amd64":      "linux/amd64",
		"linux/amd64/v1":   "linux/amd64",
		"linux/x86_64/v2":  "linux/amd64/v2 linux/amd64",
		"linux/amd64/v4":   "linux/amd64/v4 linux/amd64/v3 linux/amd64/v2 linux/amd64",
		"linux/amd64/v9":   "linux/amd64/v9",
		"linux/arm":        "linux/arm/v7 linux/arm/v6 linux/arm/v5",
		"linux/armhf":      "linux/arm/v7 linux/arm/v6 linux/arm/v5",
		"linux/armel":      "linux/arm/v6 linux/arm/v5",
		"linux/arm/8":      "linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5",
		"linux/arm/v5":     "linux/arm/v5",
		"linux/arm64/v8":   "linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5",
		"linux/arm64/v9":   "linux/arm64/v9 linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5",
		"Linux/aarch64":    "linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5",
		"linux/i686":       "linux/386",
		"windows/amd64":    "windows/amd64",
		"linux/riscv64":    "linux/riscv64",
		"linux/mips64le/x": "linux/mips64le/x",
	} {
		p, err := parsePlatform(wanted)
		if err != nil {
			t.Fatal(err)
		}
		all := choices(p)
		var got []string
		for i, c := range all {
			got = append(got, platformString(c))
			if n := rank(all, c); n != i {
				t.Errorf("%s: %s is at %d, and found at %d", wanted, platformString(c), i, n)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s runs %v, want %s", wanted, got, want)
		}
	}
}
