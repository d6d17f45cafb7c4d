package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// A finding is a line of imgfs doctor --json.
type finding struct{ Check, State, Detail, Fix string }

// doctor is what imgfs doctor finds, by the name of the check.
func (h *host) doctor(t *testing.T, code int, flags ...string) map[string]finding {
	t.Helper()
	r := h.run(t, append([]string{"doctor", "--json"}, flags...)...)
	if r.code != code || r.stderr != "" {
		t.Errorf("doctor: exit code %d, want %d; it says %q", r.code, code, r.stderr)
	}
	all := make(map[string]finding)
	for _, f := range parseJSON[[]finding](t, r.stdout) {
		all[f.Check] = f
	}
	return all
}

func TestTheDoctorFindsThatRootCanMount(t *testing.T) {
	h := newHost(t)
	for check, f := range h.doctor(t, 0) {
		if f.State == "missing" {
			t.Errorf("%s: %+v", check, f)
		}
	}
	out := h.ok(t, "doctor")
	for _, check := range []string{"mount", "device", "fusermount3", "allow_other", "cache", "runtime directory", "registries", "user namespaces", "subordinate IDs", "kernel"} {
		if !strings.Contains(out, "\n"+check+" ") {
			t.Errorf("doctor does not check %s:\n%s", check, out)
		}
	}
}

func TestTheDoctorFindsWhetherAUserCanMount(t *testing.T) {
	for _, tt := range []struct {
		name, prepare string
		code          int
		check, fix    string
	}{
		{"all is there", fuseForAll, 0, "", ""},
		{"no fusermount3", fuseForAll + "mount --bind /dev/null /usr/bin/fusermount3\n", 6, "fusermount3", "sudo apt-get install fuse3"},
		{"/dev/fuse for root alone", fuseForAll + "chmod 600 /dev/fuse\n", 6, "device", "sudo chmod 666 /dev/fuse"},
		{"no /dev/fuse", fuseForAll + "rm /dev/fuse\n", 6, "device", "sudo modprobe fuse"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newUserHost(t, tt.prepare)
			found := h.doctor(t, tt.code)
			if mounts := found["mount"].State == "ok"; mounts != (tt.code == 0) {
				t.Errorf("the finding is %+v", found["mount"])
			}
			if f := found[tt.check]; tt.check != "" && (f.State != "missing" || f.Fix != tt.fix) {
				t.Errorf("the finding is %+v, want %s missing, to be mended by %q", f, tt.check, tt.fix)
			}
		})
	}
}

func TestWhatTheDoctorSaysMendsIt(t *testing.T) {
	h := newHost(t)
	h.env = append(h.env, "PATH="+lab.dir+":"+os.Getenv("PATH")) // where imgfs is
	dir := h.mount(t, small(t))
	h.signal(t, dir, syscall.SIGKILL)
	for _, name := range []string{h.cache(), h.path("run/imgfs")} {
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	broken := h.doctor(t, 6)
	for check, state := range map[string]string{"cache": "missing", "runtime directory": "missing"} {
		f := broken[check]
		if f.State != state || f.Fix == "" {
			t.Errorf("the finding is %+v, want it %s", f, state)
		}
		h.system(t, "sh", "-c", f.Fix)
	}
	f := h.doctor(t, 0)["mounts"]
	if f.State != "warning" || !strings.Contains(f.Fix, dir) {
		t.Errorf("with a dead mount the finding is %+v", f)
	}
	h.system(t, "sh", "-c", f.Fix)
	for check, f := range h.doctor(t, 0) {
		if (check == "cache" || check == "runtime directory" || check == "mounts") && f.State != "ok" {
			t.Errorf("it is not mended: %+v", f)
		}
	}
}

func TestTheDoctorNamesAConfigurationThatIsWrong(t *testing.T) {
	h := newHost(t)
	conf := h.path("registries.conf")
	if err := os.WriteFile(conf, []byte("[[registry]]\nlocation = \n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if f := h.doctor(t, 0, "--registries-conf", conf)["registries"]; f.State != "warning" || !strings.Contains(f.Detail, conf) {
		t.Errorf("the finding is %+v", f)
	}
}
