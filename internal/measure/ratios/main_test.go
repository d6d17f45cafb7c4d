package main

import (
	"strings"
	"testing"
)

func TestRatiosAreSummedUpByBenchmark(t *testing.T) {
	const in = `goos: linux
BenchmarkInflate/data=elf-2   3   4.000 span/klauspost   100 span-MB/s   7 B/op
BenchmarkInflate/data=go-2    3   1.000 span/klauspost   200 span-MB/s   7 ns/file   9 B/file
BenchmarkSize-2               3   0.500 %index
PASS
`
	const want = `Inflate              span/klauspost                      2   1 to 4 of 2
Size                 %index                            0.5
`
	var got strings.Builder
	if err := run(strings.NewReader(in), &got); err != nil || got.String() != want {
		t.Errorf("got %v and\n%s\nwant\n%s", err, got.String(), want)
	}
	if run(strings.NewReader(in+"FAIL\timgfs/index\n"), &got) == nil {
		t.Error("a failure is no error")
	}
}
