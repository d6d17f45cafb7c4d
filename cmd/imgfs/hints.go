package main

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
)

// checkSwitches refuses --tls-verify false, as other programs take it: here, false would be a reference.
func checkSwitches(args []string) error {
	for i, arg := range args {
		if (arg == "--tls-verify" || arg == "--dest-tls-verify") && i+1 < len(args) && (args[i+1] == "false" || args[i+1] == "true") {
			return fmt.Errorf("%s %s: write %s=%s", arg, args[i+1], arg, args[i+1])
		}
	}
	return nil
}

// flagsOfOthers are what other tools call flags that are here: crane, ctr, kaniko, nerdctl, oras, podman, skopeo.
var flagsOfOthers = map[string]string{
	"insecure": "--tls-verify=false", "insecure-registry": "--tls-verify=false", "plain-http": "--tls-verify=false", "skip-verify": "--tls-verify=false",
	"src-tls-verify": "--tls-verify=false", "dest-tls-verify": "--tls-verify=false",
	"src-creds": "--creds", "dest-creds": "--creds", "user": "--creds",
	"src-authfile": "--authfile", "dest-authfile": "--authfile", "registry-config": "--authfile",
	"src-cert-dir": "--cert-dir", "dest-cert-dir": "--cert-dir",
	"arch": "--platform", "os": "--platform", "variant": "--platform", "override-arch": "--platform", "override-os": "--platform", "override-variant": "--platform",
}

// ourFlag says what to write for an unknown flag, if it is another tool's.
func ourFlag(err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || flagsOfOthers[unknown.GetSpecifiedName()] == "" {
		return ""
	}
	return ": write " + flagsOfOthers[unknown.GetSpecifiedName()]
}
