package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imgfs/layers"
)

func (a *app) statCommand() *cobra.Command {
	var f imageFlags
	var asJSON, follow bool
	cmd := &cobra.Command{
		Use:     "stat [flags] REF:/PATH…",
		Short:   "Show all there is to know about files of an image without mounting it",
		Example: "  imgfs stat debian:12:/bin/ping",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all := []fileInfo{}
			err := a.withPath(cmd.Context(), &f, args, follow, func(im *image, n layers.Node) error {
				all = append(all, im.info(n))
				return nil
			})
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(all)
			}
			for _, i := range all {
				if err := a.printInfo(i); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVarP(&follow, "dereference", "L", false, "follow a symbolic link")
	addJSON(cmd, &asJSON)
	return cmd
}

// A fileInfo is what stat and ls tell of a file.
type fileInfo struct {
	Path   string            `json:"path"`
	Type   string            `json:"type"`
	Mode   string            `json:"mode"` // octal, 12 bits
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Size   uint64            `json:"size"`
	Blocks uint64            `json:"blocks"` // of 512 bytes
	Inode  uint64            `json:"inode"`
	Nlink  uint32            `json:"nlink"`
	Mtime  time.Time         `json:"mtime"`
	Target string            `json:"target,omitempty"` // of a symbolic link
	Device string            `json:"device,omitempty"` // MAJOR:MINOR
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
	Layer  digest.Digest     `json:"layer,omitempty"` // the layer that gave the entry

	mode uint32
}

func (im *image) info(n layers.Node) fileInfo {
	t := im.tree
	at := t.Attr(n)
	i := fileInfo{
		Path: t.Path(n), Type: typeName(at.Mode), Mode: fmt.Sprintf("%04o", at.Mode&0o7777), UID: at.UID, GID: at.GID,
		Size: at.Size, Blocks: at.Blocks, Inode: at.Ino, Nlink: at.Nlink, Mtime: mtime(at), Target: t.Readlink(n), mode: at.Mode,
	}
	if k := at.Mode & unix.S_IFMT; k == unix.S_IFCHR || k == unix.S_IFBLK {
		i.Device = fmt.Sprintf("%d:%d", at.Major, at.Minor)
	}
	for _, x := range t.Xattrs(n) {
		if i.Xattrs == nil {
			i.Xattrs = map[string][]byte{}
		}
		i.Xattrs[x.Name] = []byte(x.Value)
	}
	if l := t.Layer(n); l >= 0 && l < len(im.Layers) {
		i.Layer = im.Layers[l].Digest
	}
	return i
}

func typeName(mode uint32) string {
	return map[uint32]string{
		unix.S_IFDIR: "directory", unix.S_IFLNK: "symlink", unix.S_IFCHR: "char", unix.S_IFBLK: "block",
		unix.S_IFIFO: "fifo", unix.S_IFREG: "file",
	}[mode&unix.S_IFMT]
}

func (a *app) printInfo(i fileInfo) error {
	var b strings.Builder
	line := func(key, format string, args ...any) { fmt.Fprintf(&b, "%8s: %s\n", key, fmt.Sprintf(format, args...)) }
	name := a.name(i.Path)
	if i.Target != "" {
		name += " -> " + a.name(i.Target)
	}
	line("file", "%s", name)
	line("type", "%s", i.Type)
	line("mode", "%s (%s)", i.Mode, modeString(i.mode))
	line("owner", "%d:%d", i.UID, i.GID)
	line("size", "%d (%d blocks)", i.Size, i.Blocks)
	if i.Device != "" {
		line("device", "%s", i.Device)
	}
	line("inode", "%d (%d links)", i.Inode, i.Nlink)
	line("mtime", "%s", i.Mtime.Format(time.RFC3339Nano))
	for _, k := range sortedKeys(i.Xattrs) {
		line("xattr", "%s=%q", a.name(k), i.Xattrs[k])
	}
	if i.Layer != "" {
		line("layer", "%s", i.Layer)
	}
	_, err := a.stdout.Write([]byte(b.String()))
	return err
}
