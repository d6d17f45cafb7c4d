package main

import (
	"os"
	"os/user"
)

// completeEnvironment sets what mount(8) takes away and systemd does not give: HOME, by which the cache and the credentials are
// found, so that they are the same at boot as by hand; and PATH, by which credential helpers and fusermount3 are.
func completeEnvironment() {
	if os.Getenv("HOME") == "" {
		if u, err := user.Current(); err == nil {
			os.Setenv("HOME", u.HomeDir)
		}
	}
	if os.Getenv("PATH") == "" {
		os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
}
