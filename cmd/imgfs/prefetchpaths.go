package main

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"imgfs/index"
	"imgfs/layers"
)

// contentOf tells, by layer, where the content of files is: of those that paths name, and of those below directories.
func contentOf(t *layers.Tree, paths []string) (map[int][]index.Extent, error) {
	parts := make(map[int][]index.Extent)
	seen := make(map[layers.Node]bool)
	add := func(n layers.Node) {
		if n = t.Inode(n); seen[n] {
			return
		}
		seen[n] = true
		layer, extents := t.Content(n)
		parts[layer] = append(parts[layer], extents...)
	}
	for _, p := range paths {
		nodes, err := named(t, p)
		if err != nil {
			return nil, err
		}
		for _, top := range nodes {
			for n := range listing(t, top, true) {
				if t.Attr(n).Mode&unix.S_IFMT == unix.S_IFLNK {
					var err error
					if n, err = t.Resolve(t.Path(n), true); err != nil {
						continue // it leads nowhere
					}
				}
				add(n) // a directory has no content
			}
		}
	}
	return parts, nil
}

// named finds what a path names, links followed. If that is nothing, it is a pattern, which may name several.
func named(t *layers.Tree, name string) ([]layers.Node, error) {
	n, err := t.Resolve(name, true)
	if err == nil {
		return []layers.Node{n}, nil
	}
	level := []layers.Node{layers.Root}
	for pattern := range strings.SplitSeq(path.Clean("/" + name)[1:], "/") {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, usageError{fmt.Errorf("%s: %w", name, err)}
		}
		level = matches(t, level, pattern)
	}
	if len(level) == 0 {
		return nil, notFoundError{err}
	}
	return level, nil
}

// matches finds what in directories has a name that matches a pattern of path.Match, or what links of such a name lead to.
func matches(t *layers.Tree, dirs []layers.Node, pattern string) (found []layers.Node) {
	seen := make(map[layers.Node]bool)
	for _, dir := range dirs {
		lo, hi := t.Children(dir)
		for c := lo; c < hi; c++ {
			if ok, _ := path.Match(pattern, t.Name(c)); !ok {
				continue
			}
			if n, err := t.Resolve(t.Path(c), true); err == nil && !seen[n] {
				seen[n] = true
				found = append(found, n)
			}
		}
	}
	return found
}
