package main

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imgfs/layers"
)

func (a *app) lsCommand() *cobra.Command {
	var f imageFlags
	var long, recursive, asJSON bool
	cmd := &cobra.Command{
		Use:     "ls [flags] REF[:/PATH]…",
		Short:   "List files of an image without mounting it",
		Example: "  imgfs ls -l debian:12:/etc",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all := []fileInfo{}
			// As ls(1): a link on the command line is followed, but not in a long listing.
			err := a.withPath(cmd.Context(), &f, args, !long && !asJSON, func(im *image, n layers.Node) error {
				nodes := listing(im.tree, n, recursive)
				switch {
				case asJSON:
					for n := range nodes {
						all = append(all, im.info(n))
					}
					return nil
				case long:
					return a.listLong(im, n, nodes)
				default:
					return a.listShort(im, n, nodes)
				}
			})
			if err == nil && asJSON {
				err = a.printJSON(all)
			}
			return err
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVarP(&long, "long", "l", false, "with type, mode, owner, size and time")
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "with all that is below")
	addJSON(cmd, &asJSON)
	return cmd
}

// listing is what ls shows of n: its children, or all below it, or itself if it is no directory.
func listing(t *layers.Tree, n layers.Node, recursive bool) iter.Seq[layers.Node] {
	return func(yield func(layers.Node) bool) {
		if t.Attr(n).Mode&unix.S_IFMT != unix.S_IFDIR {
			yield(n)
			return
		}
		type span struct{ next, end layers.Node }
		lo, hi := t.Children(n)
		for stack := []span{{lo, hi}}; len(stack) > 0; {
			top := &stack[len(stack)-1]
			if top.next == top.end {
				stack = stack[:len(stack)-1]
				continue
			}
			c := top.next
			top.next++
			if !yield(c) {
				return
			}
			if recursive {
				if lo, hi := t.Children(c); lo < hi {
					stack = append(stack, span{lo, hi})
				}
			}
		}
	}
}

// shownPath is c's path as a listing of top shows it.
func shownPath(t *layers.Tree, top, c layers.Node) string {
	if c == top {
		return t.Path(c)
	}
	return strings.TrimPrefix(strings.TrimPrefix(t.Path(c), t.Path(top)), "/")
}

func (a *app) listShort(im *image, top layers.Node, nodes iter.Seq[layers.Node]) error {
	for n := range nodes {
		if _, err := fmt.Fprintln(a.stdout, a.name(shownPath(im.tree, top, n))); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) listLong(im *image, top layers.Node, nodes iter.Seq[layers.Node]) error {
	for n := range nodes {
		at := im.tree.Attr(n)
		size := strconv.FormatUint(at.Size, 10)
		name := a.name(shownPath(im.tree, top, n))
		switch at.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			name += " -> " + a.name(im.tree.Readlink(n))
		case unix.S_IFCHR, unix.S_IFBLK:
			size = fmt.Sprintf("%d,%d", at.Major, at.Minor)
		}
		_, err := fmt.Fprintf(a.stdout, "%s %3d %5d %5d %10s %s %s\n", modeString(at.Mode), at.Nlink, at.UID, at.GID, size,
			mtime(at).Format("2006-01-02 15:04:05"), name)
		if err != nil {
			return err
		}
	}
	return nil
}

func mtime(at layers.Attr) time.Time { return time.Unix(at.MtimeSec, int64(at.MtimeNsec)).UTC() }

// modeString is a mode as ls(1) shows it.
func modeString(mode uint32) string {
	kinds := map[uint32]byte{
		unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFREG: '-',
	}
	s := []byte("?rwxrwxrwx")
	s[0] = kinds[mode&unix.S_IFMT]
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			s[1+i] = '-'
		}
	}
	for _, b := range []struct {
		bit     uint32
		at      int
		on, off byte
	}{{unix.S_ISUID, 3, 's', 'S'}, {unix.S_ISGID, 6, 's', 'S'}, {unix.S_ISVTX, 9, 't', 'T'}} {
		switch {
		case mode&b.bit == 0:
		case s[b.at] == 'x':
			s[b.at] = b.on
		default:
			s[b.at] = b.off
		}
	}
	return string(s)
}
