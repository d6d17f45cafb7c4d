package inflate_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"imgfs/index/inflate"
)

// checkpoints reads a file with the given span, and returns its bytes and its checkpoints. The last one is its end.
func checkpoints(r io.Reader, span int64) (got []byte, cps []inflate.Checkpoint, err error) {
	z := inflate.NewReader(r, &inflate.Options{Span: span, Checkpoint: func(cp inflate.Checkpoint) error {
		cp.Window = bytes.Clone(cp.Window)
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
func decodeGuarded(n int64, src []byte, cp *inflate.Checkpoint) ([]byte, error) {
	room := bytes.Repeat([]byte{0xa5}, int(n)+2*guard)
	dst := room[guard : guard+n]
	err := inflate.Decode(dst, src[:len(src):len(src)], cp)
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
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(cps) - 1) {
		cp, next := cps[i], cps[i+1]
		got, err := decodeGuarded(next.Out-cp.Out, file[cp.In/8:(next.In+7)/8], &cp)
		if err != nil {
			return fmt.Errorf("checkpoint %d at bit %d, byte %d: %w", i, cp.In, cp.Out, err)
		}
		if !bytes.Equal(got, want[cp.Out:next.Out]) {
			return fmt.Errorf("checkpoint %d at bit %d, byte %d: wrong bytes", i, cp.In, cp.Out)
		}
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
		if int64(len(cp.Window)) > min(cp.Out, inflate.WindowSize) {
			return fmt.Errorf("checkpoint %d: window of %d bytes", i, len(cp.Window))
		}
	}
	return nil
}
