package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// mount(8) runs /sbin/mount.TYPE for a file system of a type that the kernel does not know, as mount.TYPE SOURCE DIR [-sfnv] [-o OPTIONS].
// By one of these names, which are links to it, this program is that.
var mountHelpers = []string{"mount.imgfs", "mount.fuse.imgfs"}

func isMountHelper(program string) bool { return slices.Contains(mountHelpers, filepath.Base(program)) }

// Exit codes of mount(8), which are its helpers' as well.
const (
	mountUsage  = 1
	mountFailed = 32
)

// runMountHelper does what mount(8) asks for, and returns one of its exit codes.
func runMountHelper(args []string, stdout, stderr io.Writer) int {
	code := exitOK
	cmd := mountHelperCommand(func(line []string) { code = run(line, stdout, stderr) })
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	if err := cmd.Execute(); err != nil {
		fmt.Fprintln(stderr, "mount.imgfs:", printable(err.Error()))
		return mountUsage
	}
	switch code {
	case exitOK:
		return 0
	case exitUsage:
		return mountUsage
	}
	return mountFailed
}

// mountHelperCommand is the command line of a helper. mount is called with that of imgfs which does the same.
func mountHelperCommand(mount func(line []string)) *cobra.Command {
	var h helperFlags
	var fake bool
	cmd := &cobra.Command{
		Use:   "mount.imgfs REF DIR [-fnsv] [-o OPTIONS] [-t TYPE]",
		Short: "Mount an image by mount(8) and fstab(5)",
		Long: `mount(8) runs this for file systems of the types imgfs and fuse.imgfs. REF and DIR are those of imgfs mount.

OPTIONS are the flags of imgfs mount without their dashes, such as platform=linux/arm64, cache-dir=/var/cache/imgfs, offline
or tls-verify=false, with _ as good as - in their names. Mounts are nosuid and nodev: write suid=true and dev=true for others, as
mount(8) keeps suid and dev to itself. It says rw by itself, which is passed over: with upper=DIR a mount is writable. So is what is for
mount(8), systemd and others: x-*, _netdev, nofail, noauto, user, comment=… and the like. Anything else is an error, unless
-s is given. A comma in a value is written as \,.

Exit codes are those of mount(8): 1 for a wrong call, 32 for a mount that failed.`,
		Example: `  mount -t imgfs -o platform=linux/arm64 debian:12 /mnt

  # /etc/fstab
  debian:12  /srv/debian  imgfs  _netdev,nofail,x-systemd.mount-timeout=infinity  0  0`,
		DisableFlagsInUseLine: true,
		Args:                  cobra.ExactArgs(2),
		SilenceErrors:         true,
		SilenceUsage:          true,
		RunE: func(_ *cobra.Command, args []string) error {
			flags, err := h.line(args[0])
			if err != nil || fake {
				return err
			}
			mount(append(append([]string{"mount"}, flags...), "--", args[0], args[1]))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&h.options, "options", "o", nil, "`OPTIONS` with commas between them")
	f.BoolVarP(&h.sloppy, "sloppy", "s", false, "pass over options that are not known")
	f.BoolVarP(&fake, "fake", "f", false, "check the options only")
	f.BoolVarP(&h.verbose, "verbose", "v", false, "log what is done")
	f.BoolP("no-mtab", "n", false, "nothing: there is no mtab to write to")
	f.StringP("types", "t", "", "nothing: the `TYPE` for which mount(8) calls")
	return cmd
}

// helperFlags are what mount(8) says.
type helperFlags struct {
	options         []string
	sloppy, verbose bool
}

// line is the same in flags of imgfs mount.
func (h *helperFlags) line(source string) ([]string, error) {
	mount, _, err := (&app{}).rootCommand().Find([]string{"mount"})
	if err != nil {
		return nil, err
	}
	var flags []string
	if !strings.Contains(source, "?") { // a URL's query may have a secret, and is left out of names
		// The source is in the mount table as it is in fstab: by that, mount -a sees that it is mounted.
		flags = append(flags, "--fsname="+source)
	}
	if h.verbose {
		flags = append(flags, "--log-level=info")
	}
	for _, list := range h.options {
		for _, option := range splitOptions(list) {
			flag, err := optionFlag(mount, option)
			switch {
			case err == errUnknownOption && h.sloppy:
			case err != nil:
				name, _, _ := strings.Cut(option, "=") // the value may be a password
				return nil, fmt.Errorf("mount option %q %w", name, err)
			case flag != "":
				flags = append(flags, flag)
			}
		}
	}
	return flags, mount.ParseFlags(flags)
}

// splitOptions splits a list of mount options at its commas. One in a value is escaped by \, or in quotes ("a,b"), which mount(8)
// keeps.
func splitOptions(list string) []string {
	var all []string
	var one strings.Builder
	quoted := false
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '\\' && i+1 < len(list):
			i++
			one.WriteByte(list[i])
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			all = append(all, one.String())
			one.Reset()
		default:
			one.WriteByte(c)
		}
	}
	return append(all, one.String())
}

// otherOptions are mount options that have no flag of their name: with the one that they stand for, or with none where they say nothing to
// us. Those are for mount(8) and others, or hold of any mount of ours. It says rw where nothing else was said.
var otherOptions = map[string]string{
	"nosuid": "--suid=false", "nodev": "--dev=false", "exec": "--noexec=false",
	"": "", "ro": "", "rw": "", "default_permissions": "", "defaults": "", "comment": "", "_netdev": "", "nofail": "",
	"auto": "", "noauto": "", "user": "", "nouser": "", "users": "", "nousers": "", "owner": "", "noowner": "", "group": "", "nogroup": "",
	"async": "", "sync": "", "dirsync": "", "atime": "", "noatime": "", "diratime": "", "nodiratime": "",
	"relatime": "", "norelatime": "", "strictatime": "", "nostrictatime": "", "lazytime": "", "nolazytime": "",
}

// optionFlag is the flag of imgfs mount for a mount option; "" for one that is passed over.
func optionFlag(mount *cobra.Command, option string) (string, error) {
	name, value, hasValue := strings.Cut(option, "=")
	flag := mount.Flag(strings.ReplaceAll(name, "_", "-"))
	if other, ok := otherOptions[name]; ok && (flag == nil || !hasValue) { // sync is for others, sync=always for us
		return other, nil
	}
	if strings.HasPrefix(strings.ToLower(name), "x-") {
		return "", nil
	}
	switch {
	case flag == nil || flag.Name == "help" || flag.Name == "foreground": // mount(8) waits for us
		return "", errUnknownOption
	case hasValue:
		return "--" + flag.Name + "=" + value, nil
	case flag.NoOptDefVal == "":
		return "", errors.New("has to have a value")
	}
	return "--" + flag.Name, nil
}

var errUnknownOption = errors.New("is not known")
