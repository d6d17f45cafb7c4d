// Ratios sums up what the benchmarks print: of each metric that is a ratio, its mean, least and most over a benchmark's parts.
//
//	go test -bench . ./... | go run ./internal/measure/ratios
//
// Ratios are the metrics whose unit is A/B (the benchmark's documentation says of what), and those that begin with %. The mean is
// the geometric one. It fails where the input tells of a failure.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "ratios:", err)
		os.Exit(1)
	}
}

// A metric is a ratio that a benchmark reports, and its values.
type metric struct {
	benchmark, unit string
	values          []float64
}

func run(r io.Reader, w io.Writer) error {
	var metrics []*metric
	failed := false
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		failed = failed || strings.HasPrefix(lines.Text(), "FAIL") || strings.HasPrefix(lines.Text(), "--- FAIL")
		f := strings.Fields(lines.Text())
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil && isRatio(f[i+1]) {
				metrics = add(metrics, nameOf(f[0]), f[i+1], v)
			}
		}
	}
	for _, m := range metrics {
		m.print(w)
	}
	if failed {
		return errors.Join(lines.Err(), errors.New("a benchmark failed"))
	}
	return lines.Err()
}

// isRatio tells the units of ratios from Go's own, and from rates and sizes.
func isRatio(unit string) bool {
	a, b, _ := strings.Cut(unit, "/")
	return strings.HasPrefix(unit, "%") || b != "" && b != "s" && b != "op" && a != "ns" && !strings.HasSuffix(a, "B")
}

// nameOf is the part of a benchmark's name whose parts are summed up: without keys and values, and the number of processors.
func nameOf(s string) string {
	name, _, parts := strings.Cut(s, "/")
	if i := strings.LastIndexByte(name, '-'); !parts && i > 0 {
		name = name[:i]
	}
	return strings.TrimPrefix(name, "Benchmark")
}

func add(all []*metric, benchmark, unit string, v float64) []*metric {
	for _, m := range all {
		if m.benchmark == benchmark && m.unit == unit {
			m.values = append(m.values, v)
			return all
		}
	}
	return append(all, &metric{benchmark, unit, []float64{v}})
}

func (m *metric) print(w io.Writer) {
	sum, least, most := 0.0, math.Inf(1), math.Inf(-1)
	for _, v := range m.values {
		sum += math.Log(v)
		least, most = min(least, v), max(most, v)
	}
	mean := math.Exp(sum / float64(len(m.values)))
	fmt.Fprintf(w, "%-20s %-28s %8.3g", m.benchmark, m.unit, mean)
	if len(m.values) > 1 {
		fmt.Fprintf(w, "   %.3g to %.3g of %d", least, most, len(m.values))
	}
	fmt.Fprintln(w)
}
