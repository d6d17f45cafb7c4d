package inflate_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
)

// zlibScript makes and reads DEFLATE streams by zlib. For each request on standard input, it writes what came of it, how
// many bytes of the request it took, and the result, up to a limit. A request is a length, four bytes that say how to
// compress, or zeros to decompress, and as many bytes as the length says.
const zlibScript = `
import sys, zlib
i, o, limit = sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[1])
while size := i.read(4):
    level, window, memory, strategy = i.read(4)
    data, rest, out, outcome = i.read(int.from_bytes(size, "little")), b"", b"", 0
    if window:
        z = zlib.compressobj(level, zlib.DEFLATED, -window, memory, strategy)
        out, outcome = z.compress(data) + z.flush(), 1
    else:
        z = zlib.decompressobj(-15)
        try:
            out = z.decompress(data, limit)
            rest, outcome = z.unused_data, 1 if z.eof else 2
        except zlib.error:
            pass
    for n in outcome, len(data) - len(rest), len(out):
        o.write(n.to_bytes(4, "little"))
    o.write(out)
    o.flush()
`

// What can come of a stream.
const (
	zlibRefuses = iota
	zlibTakes
	zlibWantsMore // bytes of it, or room
)

// A zlibResult is what zlib makes of data. A stream that it refuses has no bytes.
type zlibResult struct {
	outcome uint32
	size    uint32 // of the stream, which may have bytes behind it
	bytes   []byte
}

// A zlibWay is how zlib compresses, by the parameters of deflateInit2. The zero value is to decompress.
type zlibWay struct{ level, window, memory, strategy uint8 }

// wayOf returns a way to compress that four bytes stand for, whatever they are.
func wayOf(n uint32) zlibWay {
	return zlibWay{uint8(n) % 10, 9 + uint8(n>>8)%7, 1 + uint8(n>>16)%9, uint8(n>>24) % 5}
}

// zlib is a process that runs zlib, one for each process of the tests. It ends with its standard input.
var zlib = sync.OnceValues(func() (*zlibProcess, error) {
	cmd := exec.Command("python3", "-c", zlibScript, fmt.Sprint(maxFuzz))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &zlibProcess{in: in, out: out}, cmd.Start()
})

type zlibProcess struct {
	in  io.Writer
	out io.Reader
}

// byZlib compresses or decompresses data by zlib.
func byZlib(t testing.TB, way zlibWay, data []byte) zlibResult {
	t.Helper()
	z, err := zlib()
	if err != nil {
		t.Fatalf("zlib of python3: %v", err)
	}
	r, err := z.run(way, data)
	if err != nil {
		t.Fatalf("zlib of python3: %v", err)
	}
	return r
}

func (z *zlibProcess) run(way zlibWay, data []byte) (r zlibResult, err error) {
	request := binary.LittleEndian.AppendUint32(nil, uint32(len(data)))
	request = append(request, way.level, way.window, way.memory, way.strategy)
	request = append(request, data...)
	if _, err := z.in.Write(request); err != nil {
		return r, err
	}
	var head [3]uint32
	if err := binary.Read(z.out, binary.LittleEndian, &head); err != nil {
		return r, err
	}
	r = zlibResult{head[0], head[1], make([]byte, head[2])}
	_, err = io.ReadFull(z.out, r.bytes)
	return r, err
}
