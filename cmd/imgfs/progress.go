package main

import (
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// A progress shows a bar for each layer that is being indexed, on a terminal; elsewhere it shows nothing.
type progress struct{ bars *mpb.Progress }

func (a *app) newProgress() *progress {
	if !isTerminal(a.stderr) {
		return &progress{}
	}
	return &progress{mpb.New(mpb.WithOutput(a.stderr), mpb.WithWidth(40))}
}

// wait returns when all bars are drawn for the last time.
func (p *progress) wait() {
	if p.bars != nil {
		p.bars.Wait()
	}
}

// A bar is the progress of one layer.
type bar struct{ bar *mpb.Bar }

func (p *progress) layer(d digest.Digest, size int64) *bar { return p.bar(d.Encoded(), size) }

func (p *progress) bar(name string, size int64) *bar {
	if p.bars == nil {
		return &bar{}
	}
	return &bar{p.bars.AddBar(size,
		mpb.PrependDecorators(decor.Name(fmt.Sprintf("%.12s ", printable(name)))),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.AverageSpeed(decor.SizeB1024(0), "  % .1f")),
	)}
}

// reader counts what is read through it.
func (b *bar) reader(r io.Reader) io.Reader {
	if b.bar == nil {
		return r
	}
	return b.bar.ProxyReader(r)
}

// done ends the bar, as complete or, when the layer failed, where it stands.
func (b *bar) done() {
	if b.bar != nil {
		b.bar.Abort(false)
	}
}
