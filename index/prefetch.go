package index

import (
	"fmt"
	"iter"
)

const (
	// prefetchGap is how many bytes of the blob that nobody asked for are fetched between two spans, rather than that there
	// is another request.
	prefetchGap = 64 << 10
	// maxPrefetch is how many bytes of the blob are fetched at once, about.
	maxPrefetch = 32 << 20
)

// Prefetch has the blob fetch what parts of the tar are made of, in ranges that are as large as may be, and checks it. After
// each range it gives how many bytes of spans were checked; or an error, as of ReadAt, after which there is nothing more. Spans in the
// frames need nothing to be fetched. Of an Extent, where it is in a file does not matter.
func (r *Reader) Prefetch(parts []Extent) iter.Seq2[int64, error] {
	return func(yield func(int64, error) bool) {
		spans, err := r.x.t.spansOf(parts)
		if err != nil {
			yield(0, err)
			return
		}
		last := -1
		for len(spans) > 0 {
			next := r.x.t.together(spans)
			n, err := r.bring(last, spans[:next])
			if !yield(n, err) || err != nil {
				return
			}
			last, spans = spans[next-1], spans[next:]
		}
	}
}

// spansOf gives the spans that parts of the tar are in, each once and in order, but for those in the frames.
func (t *table) spansOf(parts []Extent) ([]int, error) {
	wanted := make([]bool, len(t.spans))
	for _, p := range parts {
		if p.Offset < 0 || p.Length < 0 || p.Length > t.tarSize-p.Offset {
			return nil, fmt.Errorf("layer %s: no %d bytes from %d on", t.blob, p.Length, p.Offset)
		}
		if p.Length == 0 {
			continue
		}
		for i := t.find(p.Offset); i <= t.find(p.Offset+p.Length-1); i++ {
			wanted[i] = t.spans[i].place != inFrames && t.in(i).n > 0
		}
	}
	var spans []int
	for i, w := range wanted {
		if w {
			spans = append(spans, i)
		}
	}
	return spans, nil
}

// together gives how many of the spans, one at least, are to be fetched at once.
func (t *table) together(spans []int) int {
	start := t.in(spans[0]).off
	for n := 1; n < len(spans); n++ {
		in := t.in(spans[n])
		if in.off-t.end(spans[n-1]) > t.gap(spans[n-1], spans[n]) || in.off+in.n-start > maxPrefetch {
			return n
		}
	}
	return len(spans)
}

// gap is how many bytes may be between two spans for them to be fetched together. Of neighbours, a read that wants both fetches
// what is between them as well, so it is to be near.
func (t *table) gap(span, next int) int64 {
	if next == span+1 {
		return maxFetch
	}
	return prefetchGap
}

// end is where a span of the blob ends.
func (t *table) end(span int) int64 {
	in := t.in(span)
	return in.off + in.n
}

// bring fetches spans together, with what is between them and the last one before, if that is their neighbour, and checks them. It
// gives how many bytes they are.
func (r *Reader) bring(last int, spans []int) (n int64, err error) {
	t := r.x.t
	start, end := t.in(spans[0]).off, t.end(spans[len(spans)-1])
	if last >= 0 && last+1 == spans[0] && start-t.end(last) <= maxFetch {
		start = min(start, t.end(last))
	}
	if err := r.blob.Fetch(start, end-start); err != nil {
		return 0, fmt.Errorf("layer %s: %w", t.blob, err)
	}
	q := r.pool.Get().(*request)
	defer q.release()
	for _, i := range spans {
		q.span, q.last, q.buf = i, i, q.buf[:0]
		b, err := q.compressed()
		if err != nil {
			return n, err
		}
		n += int64(len(b))
	}
	return n, nil
}
