// Package fsx tests a file system against a plain directory: it does the same random operations in both, and compares what
// comes of each, and every now and then all that is in them.
//
// A run is repeatable: what is done follows from its seed and from the plain directory, the *model*, alone. It happens
// in a process that is chrooted to where both are, so that no link leads it out.
package fsx

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Names in Config.Dir.
const (
	Test  = "test"   // the file system that is tested
	Model = "model"  // the plain directory, with the same in it
	saved = "/saved" // what a run leaves for the next one, which goes on with both
)

// A Config says what to do.
type Config struct {
	Dir  string
	Seed uint64
	Ops  int
	// CheckEvery is after how many operations all that is there is compared; 0 is some thousands.
	CheckEvery int
	// Overlayfs knows how the kernel's overlayfs differs from a plain file system: a file that is open for reading when it is
	// copied up stays what it was, and the inode number of what is copied up is another one when the kernel has forgotten it; then
	// names of one file may be two to it, so that a write by one name doesn't take the set-ID bits that the other one got.
	Overlayfs bool
	// Passthrough knows that set-ID bits which a file gets while it is open may go before they have to, and Mapped that they go
	// when the file is written through a mapping.
	Passthrough, Mapped bool
	// NoXattrs knows that links and special files can't have attributes, and so have other inode numbers in the next mount.
	NoXattrs bool
}

const (
	maxHandles = 16   // files that are open at a time
	maxPaths   = 400  // about how many names there may be
	checkEvery = 3000 // operations
	logged     = 200  // operations that a failure shows
)

// An outcome is what a call came to: it has to be the same in both.
type outcome struct {
	errno syscall.Errno
	n     int64
	s     string
}

func (o outcome) String() string {
	s := "ok"
	if o.errno != 0 {
		s = unix.ErrnoName(o.errno)
	}
	if o.n != 0 {
		s += fmt.Sprintf(" %d", o.n)
	}
	if o.s != "" {
		s += fmt.Sprintf(" %.300q", o.s)
	}
	return s
}

// result makes an outcome of what most calls return.
func result(err error) outcome { return numbered(0, err) }

func numbered(n int, err error) outcome {
	var errno syscall.Errno
	switch {
	case err == nil:
		return outcome{n: int64(n)}
	case errors.As(err, &errno):
		return outcome{errno: errno}
	}
	return outcome{s: err.Error()}
}

// A side is one of the two.
type side struct {
	name    string
	root    int
	handles [maxHandles]int // -1 where there is none
}

// A plan is an operation, with all that is random about it decided.
type plan struct {
	by    user
	says  string
	do    func(*side) outcome
	makes string // a path that is there then, if it is anything
	// excused tells whether the tested side may refuse, in which case the other doesn't do it either.
	excused func(outcome) bool
}

// A run is a test while it runs.
type run struct {
	Config
	state
	rng       *rand.Rand
	sides     [2]*side              // tested, model
	paths     []string              // that were there at the last check, or were made since
	inodes    map[identity]identity // of the model, and what they are in the test
	originals map[identity]bool     // state.Originals
	open      [maxHandles]string    // how each handle was opened, "" where there is none
	does      []operation
	noSetID   bool // files get no set-ID bits
	noTimes   bool // times of directories are not compared
	pending   plan // that a crash came in the way of
	log       []string
}

// Run runs a test to its end, or to the first difference. It takes the whole process: that is chrooted.
func Run(c Config) error {
	r, err := start(c)
	if err != nil {
		return err
	}
	every := c.CheckEvery
	if every == 0 {
		every = checkEvery
	}
	for i := range c.Ops {
		if err := r.step(); err != nil {
			return r.failed(i, err)
		}
		if (i+1)%every == 0 {
			if err := r.check(); err != nil {
				return r.failed(i, err)
			}
		}
	}
	if err := r.check(); err != nil {
		return r.failed(c.Ops, err)
	}
	return r.save()
}

// start begins a run.
func start(c Config) (*run, error) {
	runtime.LockOSThread() // a thread has its own file system user
	if err := errors.Join(unix.Chdir(c.Dir), unix.Chroot(".")); err != nil {
		return nil, err
	}
	r := &run{Config: c, does: operations, rng: rand.New(rand.NewPCG(c.Seed, 0)), originals: make(map[identity]bool), inodes: make(map[identity]identity)}
	for i, name := range []string{Test, Model} {
		r.sides[i] = &side{name: name}
		if err := r.sides[i].openRoot(); err != nil {
			return nil, err
		}
		for h := range r.sides[i].handles {
			r.sides[i].handles[h] = -1
		}
	}
	if err := r.load(); err != nil {
		return nil, err
	}
	if r.noSetID = c.Overlayfs; r.noSetID {
		if err := r.dropSetID(); err != nil {
			return nil, err
		}
	}
	return r, r.check()
}

func (s *side) openRoot() (err error) {
	s.root, err = unix.Open("/"+s.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

func (r *run) failed(op int, err error) error {
	return fmt.Errorf("seed %d, operation %d: %w\n%s", r.Seed, op, err, strings.Join(r.log, "\n"))
}

// step does one operation on both sides.
func (r *run) step() error {
	p := r.choose()
	p.by = pick(r, users...)
	p.by.become()
	defer users[0].become()
	got := p.do(r.sides[0])
	if r.crashed(got) {
		r.pending = p
		r.note(p, "not done, or done before a crash")
		return errCrashed
	}
	refused := p.excused != nil && p.excused(got)
	want := got
	if !refused {
		want = p.do(r.sides[1])
	}
	r.note(p, want)
	if got != want {
		return fmt.Errorf("%v on the model, but %v: %s", want, got, p.says)
	}
	if p.makes != "" && want.errno == 0 {
		r.paths = append(r.paths, p.makes)
	}
	return nil
}

// note logs an operation.
func (r *run) note(p plan, came any) {
	if len(r.log) == logged {
		r.log = r.log[1:]
	}
	r.log = append(r.log, fmt.Sprintf("%d %s: %v", p.by.uid, p.says, came))
}

// A user is who does an operation, by file system user and group.
type user struct{ uid, gid int }

// users are root and others. The more often one is here, the more he does.
var users = []user{{0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {1000, 1000}, {1000, 1000}, {1001, 1000}}

func (u user) become() {
	unix.Setfsgid(u.gid)
	unix.Setfsuid(u.uid)
}

// choose picks an operation by its weight.
func (r *run) choose() plan {
	list := r.does
	if len(r.paths) > maxPaths {
		list = removals
	}
	total := 0
	for _, o := range list {
		total += o.weight
	}
	n := r.rng.IntN(total)
	for _, o := range list {
		if n -= o.weight; n < 0 {
			return o.plan(r)
		}
	}
	panic("weights")
}

// A state is what goes from one run to the next.
type state struct {
	// Originals are the directories that were in the model at the first run. The kernel's overlayfs, and whoever does as it
	// does, renames only those that were not.
	Originals []identity
	// Inodes are those of the model, and what they are in the test.
	Inodes [][2]identity
}

func (r *run) load() error {
	b, err := os.ReadFile(saved)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = r.begin()
	case err == nil:
		err = json.Unmarshal(b, &r.state)
	}
	for _, id := range r.Originals {
		r.originals[id] = true
	}
	r.restoreInodes()
	return err
}

// restoreInodes forgets of the inodes those that are other ones in the next mount.
func (r *run) restoreInodes() {
	clear(r.inodes)
	for _, pair := range r.Inodes {
		r.inodes[pair[0]] = pair[1]
	}
}

// begin notes what is there at the first run.
func (r *run) begin() error {
	return walk(r.sides[1].root, "", func(e entry) error {
		if e.st.Mode&unix.S_IFMT == unix.S_IFDIR {
			r.Originals = append(r.Originals, e.identity())
		}
		return nil
	})
}

func (r *run) save() error {
	b, err := json.Marshal(r.state)
	if err != nil {
		return err
	}
	return os.WriteFile(saved, b, 0o600)
}
