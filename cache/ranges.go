package cache

import (
	"slices"
	"sort"
)

// A piece is the bytes from lo up to, not including, hi.
type piece struct{ lo, hi int64 }

// ranges is a set of bytes: pieces that are sorted, not empty, and neither
// overlap nor touch.
type ranges []piece

// after returns the position of the first piece that ends behind off.
func (r ranges) after(off int64) int {
	return sort.Search(len(r), func(i int) bool { return r[i].hi > off })
}

// from returns how many bytes from off on are in the set without a gap.
func (r ranges) from(off int64) int64 {
	if i := r.after(off); i < len(r) && r[i].lo <= off {
		return r[i].hi - off
	}
	return 0
}

// missing returns the first piece of [lo, hi) that is not in the set; an
// empty one, at hi, if there is none.
func (r ranges) missing(lo, hi int64) piece {
	lo = min(lo+r.from(lo), hi)
	if i := r.after(lo); i < len(r) {
		hi = max(lo, min(hi, r[i].lo))
	}
	return piece{lo, hi}
}

// hull returns the smallest piece that holds all that is missing in [lo, hi).
func (r ranges) hull(lo, hi int64) piece {
	lo = r.missing(lo, hi).lo
	if i := r.after(hi - 1); i < len(r) && r[i].lo < hi {
		hi = max(lo, r[i].lo)
	}
	return piece{lo, hi}
}

// coalesce returns the end of what one source read should bring that starts
// at lo, where bytes are missing: as far as hi, over pieces that are in the
// set as long as each has at most gap bytes, and not ending with such a piece.
func (r ranges) coalesce(lo, hi, gap int64) int64 {
	for end := lo; ; {
		end = r.missing(end, hi).hi
		next := r.missing(end, hi)
		if next.lo == hi || next.lo-end > gap {
			return end
		}
		end = next.lo
	}
}

// add returns the set with [p.lo, p.hi).
func (r ranges) add(p piece) ranges {
	if p.lo >= p.hi {
		return r
	}
	i := r.after(p.lo - 1)
	j := i
	for ; j < len(r) && r[j].lo <= p.hi; j++ {
		p = piece{min(p.lo, r[j].lo), max(p.hi, r[j].hi)}
	}
	return slices.Replace(r, i, j, p)
}

// remove returns the set without [p.lo, p.hi).
func (r ranges) remove(p piece) ranges {
	if p.lo >= p.hi {
		return r
	}
	i := r.after(p.lo)
	j := i
	var rest []piece
	for ; j < len(r) && r[j].lo < p.hi; j++ {
		if r[j].lo < p.lo {
			rest = append(rest, piece{r[j].lo, p.lo})
		}
		if r[j].hi > p.hi {
			rest = append(rest, piece{p.hi, r[j].hi})
		}
	}
	return slices.Replace(r, i, j, rest...)
}

// bytes returns the size of the set.
func (r ranges) bytes() (n int64) {
	for _, p := range r {
		n += p.hi - p.lo
	}
	return n
}
