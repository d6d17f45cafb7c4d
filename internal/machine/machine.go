// Package machine tells what a machine has of what imgfs can make use of, and for what is missing the command that
// mends it.
//
// # Terms
//
// A *check* is of one thing, and comes to a *finding*: the thing is all right, it is missing, or it is a warning, which is about
// what mounting does without.
package machine

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
)

// A State is what a finding amounts to.
type State string

// States.
const (
	OK      State = "ok"
	Warning State = "warning" // something does not work, but mounting does
	Missing State = "missing" // without it nothing can be mounted
)

// A Finding is what a check has found.
type Finding struct {
	Check  string `json:"check"`
	State  State  `json:"state"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // a command for the shell; "" where no command would do
}

// As returns f with what it comes to.
func (f Finding) As(s State, detail, fix string) Finding {
	f.State, f.Detail, f.Fix = s, detail, fix
	return f
}

// A Machine is looked at with the eyes of a user.
type Machine struct {
	Root string   // where its file system is: "/", but in tests
	UID  int      // of the user
	User string   // the user's name
	Path []string // where programs are looked for
}

// at is where a file of the machine's is.
func (m *Machine) at(path string) string { return filepath.Join(m.Root, path) }

// AsRoot is a command that takes root, as the user has to enter it.
func (m *Machine) AsRoot(command ...string) string {
	line := Quote(command...)
	if m.UID != 0 {
		line = "sudo " + line
	}
	return line
}

// Quote is a command line for the shell.
func Quote(words ...string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+=:,@%"
	quoted := make([]string, len(words))
	for i, w := range words {
		if w == "" || strings.Trim(w, plain) != "" {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		quoted[i] = w
	}
	return strings.Join(quoted, " ")
}

// program finds a program; "" if there is none.
func (m *Machine) program(name string) string {
	for _, dir := range m.Path {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(m.at(path)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// line is the first line of a file, "" if there is none.
func (m *Machine) line(path string) string {
	b, err := os.ReadFile(m.at(path))
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(first)
}

// fields are the values of a file of lines KEY, separator, VALUE.
func (m *Machine) fields(path, separator string) map[string]string {
	f, err := os.Open(m.at(path))
	if err != nil {
		return nil
	}
	defer f.Close()
	all := make(map[string]string)
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), separator); ok {
			all[key] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return all
}

// packagers are the ways to install packages: of the distributions that /etc/os-release names, the first that fits.
var packagers = []struct {
	like    string // ID or ID_LIKE
	install []string
	uidmap  string // the package with newuidmap
}{
	{"debian", []string{"apt-get", "install"}, "uidmap"},
	{"fedora", []string{"dnf", "install"}, "shadow-utils"},
	{"rhel", []string{"dnf", "install"}, "shadow-utils"},
	{"suse", []string{"zypper", "install"}, "shadow"},
	{"arch", []string{"pacman", "-S"}, "shadow"},
	{"alpine", []string{"apk", "add"}, "shadow-uidmap"},
}

// install is the command that installs fuse3, or newuidmap, on this distribution; "" for one that is not known.
func (m *Machine) install(what string) string {
	release := m.fields("/etc/os-release", "=")
	likes := strings.Fields(release["ID"] + " " + release["ID_LIKE"])
	for _, p := range packagers {
		for _, like := range likes {
			if like != p.like {
				continue
			}
			if what == "newuidmap" {
				what = p.uidmap
			}
			return m.AsRoot(append(append([]string{}, p.install...), what)...)
		}
	}
	return ""
}
