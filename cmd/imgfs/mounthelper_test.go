package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// helped is the command line of imgfs mount that comes of a call of the helper, without what is the same in all of them.
func helped(t *testing.T, args ...string) []string {
	t.Helper()
	var line []string
	cmd := mountHelperCommand(func(l []string) { line = l })
	cmd.SetArgs(append([]string{"debian:12", "/mnt"}, args...))
	if err := cmd.Execute(); err != nil {
		t.Errorf("%q: %v", args, err)
		return nil
	}
	if len(line) < 5 || line[0] != "mount" || line[1] != "--fsname=debian:12" || !slices.Equal(line[len(line)-3:], []string{"--", "debian:12", "/mnt"}) {
		t.Errorf("%q: the command line is %q", args, line)
		return nil
	}
	return line[2 : len(line)-3]
}

func TestMountOptionsAreTheFlagsOfMount(t *testing.T) {
	for _, tt := range []struct {
		args string
		want []string
	}{
		{"", nil},
		{"-o rw", nil},
		{"-o ro,platform=linux/arm64,cache_dir=/c,offline", []string{"--platform=linux/arm64", "--cache-dir=/c", "--offline"}},
		{"-o suid,nosuid,dev,noexec,exec", []string{"--suid", "--suid=false", "--dev", "--noexec", "--noexec=false"}},
		{"-o tls_verify=false,log-level=debug,allow_other,memory=16M", []string{"--tls-verify=false", "--log-level=debug", "--allow-other", "--memory=16M"}},
		{`-o authfile=/a\,b,cert_dir="/c,d",hosts-dir=/e\\f`, []string{"--authfile=/a,b", "--cert-dir=/c,d", `--hosts-dir=/e\f`}},
		{"-o _netdev,nofail,noauto,user,comment=hello,x-systemd.automount,X-mount.mkdir=0755,defaults,noatime,user=joe", nil},
		{"-v -n -t fuse.imgfs -o fsname=other", []string{"--log-level=info", "--fsname=other"}},
		{"-s -o nonsense,offline,context=x", []string{"--offline"}},
	} {
		if got := helped(t, strings.Fields(tt.args)...); !slices.Equal(got, tt.want) {
			t.Errorf("%s: the flags are %q, want %q", tt.args, got, tt.want)
		}
	}
}

func TestTheQueryOfAURLIsNotInTheMountTable(t *testing.T) {
	if got, err := new(helperFlags).line("tar:https://files.example/a.tar?signature=secret"); err != nil || len(got) > 0 {
		t.Errorf("the flags are %q (%v)", got, err)
	}
}

func TestEveryFlagOfMountIsAMountOption(t *testing.T) {
	mount, _, err := (&app{}).rootCommand().Find([]string{"mount"})
	if err != nil {
		t.Fatal(err)
	}
	mount.InheritedFlags() // merges those of all commands
	n := 0
	mount.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "foreground" || f.Name == "help" {
			return
		}
		n++
		option, want := strings.ReplaceAll(f.Name, "-", "_"), "--"+f.Name
		if f.NoOptDefVal == "" {
			option, want = option+"=x", want+"=x"
		}
		if got, err := optionFlag(mount, option); got != want || err != nil {
			t.Errorf("option %s is %q (%v), want %q", option, got, err, want)
		}
	})
	if n < 15 {
		t.Errorf("%d flags were seen", n)
	}
}

func TestTheMountHelperRefusesByNameWithTheCodesOfMount(t *testing.T) {
	for args, say := range map[string]string{
		"REF /mnt -o offline,frobnicate=1":  `"frobnicate"`,
		"REF /mnt -o remount":               `"remount"`,
		"REF /mnt -o foreground":            `"foreground"`,
		"REF /mnt -o help":                  `"help"`,
		"REF /mnt -o platform,offline":      "has to have a value",
		"REF /mnt -s -o memory=lots":        "memory",
		"REF /mnt -o log_level=debug,upper": `"upper"`,
		"REF":                               "2 arg",
		"REF /mnt -N 1":                     "-N",
	} {
		var stdout, stderr bytes.Buffer
		code := runMountHelper(strings.Fields(args), &stdout, &stderr)
		if code != 1 || stdout.Len() > 0 || !strings.Contains(stderr.String(), say) {
			t.Errorf("mount.imgfs %s: exit code %d, says %q and %q; want 1 and %q", args, code, &stdout, &stderr, say)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := runMountHelper([]string{"REF", "/mnt", "-f", "-o", "ro,offline"}, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Errorf("a fake mount ends with %d: %s", code, &stderr)
	}
}

func TestTheMountHelperGoesByItsName(t *testing.T) {
	for program, want := range map[string]bool{
		"/sbin/mount.imgfs": true, "/usr/sbin/mount.fuse.imgfs": true, "mount.imgfs": true,
		"imgfs": false, "/usr/bin/imgfs": false, "mount": false, "/sbin/mount.imgfs/imgfs": false,
	} {
		if isMountHelper(program) != want {
			t.Errorf("%s: %v", program, !want)
		}
	}
}
