package machine

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// features are what kernels have brought that imgfs makes use of.
var features = []struct {
	major, minor int
	what         string
}{
	{4, 18, "FUSE in user namespaces"},
	{5, 11, "overlayfs in user namespaces"},
	{6, 9, "passthrough"},
	{6, 12, "mounts with mapped owners"},
}

// Kernel tells what a kernel of that release brings.
func (m *Machine) Kernel(release string) Finding {
	f := Finding{Check: "kernel"}
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 {
		return f.As(Warning, "its release "+strconv.Quote(release)+" says nothing", "")
	}
	var has, lacks []string
	for _, x := range features {
		if cmp.Or(cmp.Compare(major, x.major), cmp.Compare(minor, x.minor)) >= 0 {
			has = append(has, x.what)
		} else {
			lacks = append(lacks, fmt.Sprintf("%s (%d.%d)", x.what, x.major, x.minor))
		}
	}
	detail := release
	if len(has) > 0 {
		detail += " has " + strings.Join(has, ", ")
	}
	if len(lacks) > 0 {
		detail += "; newer ones have " + strings.Join(lacks, ", ")
	}
	return f.As(OK, detail, "")
}

// Namespaces tells whether users may make user namespaces. tried is what came of trying to.
func (m *Machine) Namespaces(tried error) Finding {
	f := Finding{Check: "user namespaces"}
	if tried == nil && m.UID != 0 {
		return f.As(OK, "one was made", "")
	}
	// Root's trial tells nothing of users.
	for _, s := range []struct{ file, forbids, set string }{
		{"/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=15000"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"},
	} {
		if m.line(s.file) == s.forbids {
			name, _, _ := strings.Cut(s.set, "=")
			return f.As(Warning, fmt.Sprintf("users can't make them, or have no rights in them: %s is %s", name, s.forbids), m.AsRoot("sysctl", "-w", s.set))
		}
	}
	if tried != nil {
		return f.As(Warning, fmt.Sprintf("they can't be made: %v; in a container its seccomp profile may forbid it", tried), "")
	}
	return f.As(OK, "no setting forbids them to users", "")
}

// minSubIDs is how many subordinate IDs it takes for the owners in common images.
const minSubIDs = 65536

// SubIDs checks that the user has subordinate IDs to map the owners in an image to.
func (m *Machine) SubIDs() Finding {
	f := Finding{Check: "subordinate IDs"}
	if m.UID == 0 {
		return f.As(OK, "root needs none", "")
	}
	uids, nextUID := m.subIDs("/etc/subuid")
	gids, nextGID := m.subIDs("/etc/subgid")
	add := []string{"usermod"}
	if uids < minSubIDs {
		add = append(add, "--add-subuids", fmt.Sprintf("%d-%d", nextUID, nextUID+minSubIDs-1))
	}
	if gids < minSubIDs {
		add = append(add, "--add-subgids", fmt.Sprintf("%d-%d", nextGID, nextGID+minSubIDs-1))
	}
	switch {
	case len(add) > 1:
		return f.As(Warning, fmt.Sprintf("you have %d for users and %d for groups; owners in images take %d of each", uids, gids, minSubIDs),
			m.AsRoot(append(add, m.User)...))
	case m.program("newuidmap") == "" || m.program("newgidmap") == "":
		return f.As(Warning, "there are no newuidmap and newgidmap, which hand them out", m.install("newuidmap"))
	}
	return f.As(OK, fmt.Sprintf("%d for users, %d for groups", uids, gids), "")
}

// subIDs counts the user's IDs in a file of lines USER:FIRST:COUNT, and tells the first one that is nobody's.
func (m *Machine) subIDs(path string) (count, next int) {
	next = 100000
	f, err := os.Open(m.at(path))
	if err != nil {
		return 0, next
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(fields) != 3 {
			continue
		}
		first, err1 := strconv.ParseUint(fields[1], 10, 32)
		n, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		next = max(next, int(first+n))
		if fields[0] == m.User || fields[0] == strconv.Itoa(m.UID) {
			count += int(n)
		}
	}
	return count, next
}
