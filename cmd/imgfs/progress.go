package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// slow is how long it takes until a layer is told of where there are no bars.
const slow = 2 * time.Second

// A progress shows what is being indexed, or read for another reason: on a terminal by a bar for each, elsewhere by a line for each that takes long. The zero
// value shows nothing.
type progress struct {
	doing string        // what is done, for the lines
	bars  *mpb.Progress // nil: there are none
	say   func(line string)
}

// newProgress draws no bars between the lines of a log that tells of each layer.
func (a *app) newProgress(doing string) *progress {
	if isTerminal(a.stderr) && !a.log.Enabled(context.Background(), slog.LevelInfo) {
		return &progress{doing: doing, bars: mpb.New(mpb.WithOutput(a.stderr), mpb.WithWidth(40))}
	}
	return &progress{doing: doing, say: func(line string) { fmt.Fprintln(a.stderr, "imgfs:", line) }}
}

// wait returns when all bars are drawn for the last time.
func (p *progress) wait() {
	if p.bars != nil {
		p.bars.Wait()
	}
}

// A bar is the progress of one layer, or of one file.
type bar struct {
	bar    *mpb.Bar // nil: there is none
	begun  time.Time
	cached atomic.Int64 // bytes that were here: they say nothing of the rate
	last   string       // what rate gave; it alone uses it
	quiet  func()       // takes back the line that is still to come
}

// start shows that something of that size is at it.
func (p *progress) start(what string, size int64) *bar {
	b := &bar{begun: time.Now(), quiet: func() {}}
	switch what = fmt.Sprintf("%.40s", printable(what)); {
	case p.bars != nil:
		b.bar = p.bars.AddBar(size, mpb.PrependDecorators(decor.Name(what+" ")),
			mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.Any(b.rate)))
	case p.say != nil:
		b.quiet = after(slow, func() { p.say(fmt.Sprintf("%s %s, %s", p.doing, what, humanBytes(size))) })
	}
	return b
}

// after calls do after a while, unless stop is called before. When stop has returned do is not running.
func after(d time.Duration, do func()) (stop func()) {
	var mu sync.Mutex
	stopped := false
	timer := time.AfterFunc(d, func() {
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			do()
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		stopped = true
	}
}

// rate tells how fast bytes come in, and how long the rest will take at that rate.
func (b *bar) rate(s decor.Statistics) string {
	fetched, took := s.Current-b.cached.Load(), time.Since(b.begun)
	if s.Completed || s.Aborted || fetched <= 0 {
		return b.last
	}
	perSecond := float64(fetched) / took.Seconds()
	b.last = fmt.Sprintf("  %s/s", humanBytes(int64(perSecond)))
	left := time.Duration(float64(s.Total-s.Current) / perSecond * float64(time.Second))
	return fmt.Sprintf("%s, %v left", b.last, left.Round(time.Second))
}

// reader counts what is read through it. cached tells how much of that was here before.
func (b *bar) reader(r io.Reader, cached func() int64) io.Reader {
	if b.bar == nil {
		return r
	}
	return readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		b.cached.Store(cached())
		b.bar.IncrBy(n)
		return n, err
	})
}

// nothingCached is for bytes that are read anew.
func nothingCached() int64 { return 0 }

// add counts bytes that are not read through a reader.
func (b *bar) add(n int64) {
	if b.bar != nil {
		b.bar.IncrInt64(n)
	}
}

// done ends the bar, as complete or, when the layer failed, where it stands.
func (b *bar) done() {
	b.quiet()
	if b.bar != nil {
		b.bar.Abort(false)
	}
}
