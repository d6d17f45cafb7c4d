package inflate_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"imgfs/index/inflate"
)

// checkpoints reads a file with the given span, and returns its bytes and its checkpoints. The last one is its end.
func checkpoints(r io.Reader, span int64) (got []byte, cps []inflate.Checkpoint, err error) {
	z := inflate.NewReader(r, &inflate.Options{Span: span, Checkpoint: func(cp inflate.Checkpoint) error {
		cp.Window = bytes.Clone(cp.Window)
		cp.Used = slices.Clone(cp.Used)
		cp.Block = bytes.Clone(cp.Block)
		cps = append(cps, cp)
		return nil
	}})
	got, err = io.ReadAll(z)
	cps = append(cps, inflate.Checkpoint{In: z.End() * 8, Out: int64(len(got))})
	return got, cps, err
}

// guard is the number of bytes around a span's room that have to stay as they are.
const guard = 64

// decodeGuarded decodes a span, and fails if bytes around dst change.
func decodeGuarded(n int64, src []byte, cp *inflate.Checkpoint, end int64) ([]byte, error) {
	room := bytes.Repeat([]byte{0xa5}, int(n)+2*guard)
	dst := room[guard : guard+n]
	err := inflate.Decode(dst, src[:len(src):len(src)], cp, end)
	border := bytes.Repeat([]byte{0xa5}, guard)
	if !bytes.Equal(room[:guard], border) || !bytes.Equal(room[guard+n:], border) {
		return nil, errors.New("bytes outside dst were written")
	}
	return dst, err
}

// check reads a file with each span, and resumes it at each checkpoint, in random order.
func check(t *testing.T, file, want []byte, spans ...int64) {
	t.Helper()
	for _, span := range spans {
		if err := checkSpan(file, want, span); err != nil {
			t.Fatalf("span of %d: %v", span, err)
		}
	}
}

func checkSpan(file, want []byte, span int64) error {
	got, cps, err := checkpoints(bytes.NewReader(file), span)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("got %d bytes, want %d, or they differ", len(got), len(want))
	}
	if err := checkPlaces(cps, span); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, i := range rng.Perm(len(cps) - 1) {
		cp, next := cps[i], cps[i+1]
		if err := checkResume(rng, cp, next.In, file[cp.In/8:(next.In+7)/8], want[:next.Out]); err != nil {
			return fmt.Errorf("checkpoint %d at bit %d, byte %d: %w", i, cp.In, cp.Out, err)
		}
	}
	return nil
}

// checkResume decodes a span, of which want is the end. It gives nothing of the window that is not used, and then
// makes sure that its length and a used byte count.
func checkResume(rng *rand.Rand, cp inflate.Checkpoint, end int64, src, want []byte) error {
	before, want := want[:cp.Out], want[cp.Out:]
	if err := checkWindow(cp, before); err != nil {
		return err
	}
	window := bytes.Repeat([]byte{0xaa}, len(cp.Window))
	for _, run := range cp.Used {
		copy(window[run.Off:], cp.Window[run.Off:][:run.Len])
	}
	cp.Window = window
	got, err := decodeGuarded(int64(len(want)), src, &cp, end)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("wrong bytes")
	}
	for _, n := range []int{len(want) - 1, len(want) + 1} {
		if n < 0 {
			continue
		}
		if _, err := decodeGuarded(int64(n), src, &cp, end); !errors.Is(err, inflate.ErrCorrupt) {
			return fmt.Errorf("a span of %d bytes is taken for one of %d, or error: %w", len(want), n, err)
		}
	}
	if len(cp.Used) == 0 {
		return nil
	}
	run := cp.Used[rng.IntN(len(cp.Used))]
	cp.Window[run.Off+rng.IntN(run.Len)]++
	if got, err := decodeGuarded(int64(len(want)), src, &cp, end); err != nil || bytes.Equal(got, want) {
		return fmt.Errorf("a byte of %+v is not used, or error: %w", run, err)
	}
	return nil
}

// checkWindow fails if a checkpoint's window is not as the documentation says. The bytes before it are given.
func checkWindow(cp inflate.Checkpoint, before []byte) error {
	if len(cp.Window) > min(len(before), inflate.WindowSize) {
		return fmt.Errorf("window of %d bytes", len(cp.Window))
	}
	want := make([]byte, len(cp.Window))
	end := -1
	for _, run := range cp.Used {
		if run.Off <= end || run.Len <= 0 {
			return fmt.Errorf("runs %+v", cp.Used)
		}
		end = run.Off + run.Len
		copy(want[run.Off:end], before[len(before)-len(want)+run.Off:])
	}
	if len(want) > 0 && (len(cp.Used) == 0 || cp.Used[0].Off != 0) {
		return errors.New("window that does not begin with a byte that is used")
	}
	if !bytes.Equal(cp.Window, want) {
		return errors.New("window is not made of the bytes before it")
	}
	return nil
}

// checkPlaces fails if checkpoints are not as the documentation says.
func checkPlaces(cps []inflate.Checkpoint, span int64) error {
	if first := cps[0]; first.In != 0 || first.Out != 0 || !first.Member {
		return fmt.Errorf("first checkpoint is %+v", first)
	}
	maxIn, maxOut := inflate.MaxSpan(span)
	for i, cp := range cps[:len(cps)-1] {
		next := cps[i+1]
		if in, out := (next.In+7)/8-cp.In/8, next.Out-cp.Out; in > maxIn || out > maxOut {
			return fmt.Errorf("span %d: %d bytes to %d, at most %d to %d allowed", i, in, out, maxIn, maxOut)
		}
		if in, out := next.In/8-cp.In/8, next.Out-cp.Out; i < len(cps)-2 && in < span && out < span {
			return fmt.Errorf("span %d: only %d bytes to %d", i, in, out)
		}
		if cp.Member && (cp.In%8 != 0 || cp.Window != nil || cp.Block != nil) {
			return fmt.Errorf("member's checkpoint %+v", cp)
		}
	}
	return nil
}
