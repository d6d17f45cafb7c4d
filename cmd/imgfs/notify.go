package main

import (
	"log/slog"
	"net"
	"os"
	"strings"
)

// A supervisor is who started this process and waits to be told how it is doing, by the protocol of sd_notify(3): the address
// of its socket, "" if there is none. systemd is one for services of Type=notify.
type supervisor string

// findSupervisor finds the supervisor in the environment, where those whom this process starts do not find it any more. A mount
// in the background has none: it has been waited for already.
func findSupervisor() supervisor {
	socket := os.Getenv("NOTIFY_SOCKET")
	os.Unsetenv("NOTIFY_SOCKET")
	if isChild {
		return ""
	}
	return supervisor(socket)
}

// tell tells it assignments of a state, KEY=VALUE.
func (s supervisor) tell(log *slog.Logger, state ...string) {
	if s == "" {
		return
	}
	// To net as well, an address that starts with @ is an abstract one.
	c, err := net.Dial("unixgram", string(s))
	if err == nil {
		defer c.Close()
		for i := range state {
			state[i] = strings.ReplaceAll(state[i], "\n", " ")
		}
		_, err = c.Write([]byte(strings.Join(state, "\n")))
	}
	if err != nil {
		log.Warn("whoever waits for this mount can't be told of it", "NOTIFY_SOCKET", string(s), "why", err)
	}
}
