package fs

import (
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imgfs/layers"
)

const (
	// maxPushed is the size of the largest file that is pushed, in bytes. For larger ones a request is not what costs.
	maxPushed = 32 << 10
	// maxPushes is how many files are pushed at a time, and pushesPerRead how many for each that was read or pushed in
	// the same run.
	maxPushes     = 256
	pushesPerRead = 4
	// minRun is how many files have to be read one after the other before any is pushed.
	minRun = 8
	// maxStep is how many names a run may advance at once: there are directories and links in between, and files that
	// the kernel has already.
	maxStep = 8
)

// A pusher gives the kernel small files before it asks for them. Who reads one after the other (tar, cp -a, grep -r) waits for
// each as long as a request and its answer take, and that is most of what a small file costs. When the next ones of the directory
// are decoded, their content goes to the kernel's page cache at once (FUSE_NOTIFY_STORE). Nothing is read or decoded
// for that, so a lazy image stays lazy.
//
// Files are pushed before the read that brings it about is answered, so that the kernel does not ask for them meanwhile. There
// is one pusher at a time: it may have to wait for the answer to a read of a file that it pushes, and who answers that
// must not wait for it.
//
// Names stand in a directory in the order in which they are listed, so a run is a row of rising nodes.
type pusher struct {
	tree  *layers.Tree
	store func(id uint64, off int64, data []byte) fuse.Status // to the kernel; set before the first read

	// mu protects the following.
	mu   sync.Mutex
	busy bool
	last layers.Node // that was read, or pushed after it
	run  int         // files in a row
}

// read is told of a file of which all is about to be given, by one answer.
func (p *pusher) read(n layers.Node) {
	hi, most := p.follow(n)
	if most == 0 {
		return
	}
	last, pushed := p.push(n, hi, most)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy, p.last = false, last
	p.run = min(p.run+pushed, maxPushes)
}

// follow notes that n is read. Of the nodes up to hi, most files are to be pushed now, which may be none.
func (p *pusher) follow(n layers.Node) (hi layers.Node, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy {
		return 0, 0
	}
	lo, hi := p.tree.Children(p.tree.Parent(n))
	if p.continues(n) || n <= lo+maxStep { // here, or in another directory
		p.run++
	} else {
		p.run /= 2
	}
	p.last = n
	if p.run < minRun || n+1 >= hi {
		return 0, 0
	}
	p.busy = true
	return hi, min(p.run*pushesPerRead, maxPushes)
}

// continues tells whether n comes soon after the last file, or after a directory that has it somewhere below.
func (p *pusher) continues(n layers.Node) bool {
	for at := p.last; at != layers.Root; at = p.tree.Parent(at) {
		if at < n && n <= at+maxStep {
			return true
		}
	}
	return false
}

// push gives the kernel small files among the nodes after n and before hi, most of them at most, until it meets one that
// is not decoded or that the kernel has not looked up. It tells how far it came.
func (p *pusher) push(n, hi layers.Node, most int) (last layers.Node, pushed int) {
	var buf []byte
	for last = n; last+1 < hi && pushed < most; last++ {
		a := p.tree.Attr(last + 1)
		if a.Mode&syscall.S_IFMT != syscall.S_IFREG || a.Size == 0 || a.Size > maxPushed || p.tree.Inode(last+1) != last+1 {
			continue
		}
		var ok bool
		if buf, ok = p.pushFile(last+1, buf[:0]); !ok {
			break
		}
		pushed++
	}
	return last, pushed
}

// pushFile gives the kernel one file. It takes all of it at once: a page that is stored in pieces does not count as
// read. What is in several spans goes through buf, which is returned to be used again.
func (p *pusher) pushFile(n layers.Node, buf []byte) (_ []byte, ok bool) {
	var room [maxParts]layers.Part
	parts := p.tree.HoldReady(n, room[:0])
	if len(parts) == 0 {
		return buf, false
	}
	data := parts[0].Data
	if len(parts) > 1 {
		for _, part := range parts {
			buf = append(buf, part.Data...)
		}
		data = buf
	}
	status := p.store(uint64(n)+rootID, 0, data)
	for _, part := range parts {
		part.Release()
	}
	return buf, status == fuse.OK
}
