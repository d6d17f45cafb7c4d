package fetcher

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

// A transient error is one that another attempt may not meet.
type transient struct {
	err   error
	after time.Duration // the server asked for this pause
}

func (e *transient) Error() string { return e.err.Error() }
func (e *transient) Unwrap() error { return e.err }

// A retrier decides whether something is tried again.
type retrier struct {
	f        *Fetcher
	what     string
	budget   time.Duration
	deadline time.Time
	failed   int // attempts without progress
	total    int
}

func (f *Fetcher) retrier(what string, budget time.Duration) *retrier {
	return &retrier{f: f, what: what, budget: budget, deadline: f.now().Add(budget)}
}

// again returns nil after a pause when another attempt is to be made after
// err, and the error to end with otherwise.
func (r *retrier) again(ctx context.Context, err error) error {
	r.total++
	var t *transient
	if !errors.As(err, &t) {
		return err
	}
	pause := max(backoff(r.failed), t.after)
	r.failed++
	if r.f.now().Add(pause).After(r.deadline) {
		return fmt.Errorf("%w (after %d attempts in %v)", err, r.total, r.budget)
	}
	if r.total == 1 {
		r.f.log.Warn("a request failed, and is tried again", "what", r.what, "error", err)
	}
	if r.f.sleep(ctx, pause) != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	r.f.traffic.retries.Add(1)
	return nil
}

// progressed tells r that something has been got since the last failure.
func (r *retrier) progressed() { r.failed = 0 }

// extend gives r its whole time anew.
func (r *retrier) extend() { r.deadline = r.f.now().Add(r.budget) }

// backoff returns a pause of 0.1 s that doubles with each failure up to 5 s, and
// varies by half, so that readers who failed together do not come back together.
func backoff(failed int) time.Duration {
	const first, most = 100 * time.Millisecond, 5 * time.Second
	pause := most
	if failed < 6 {
		pause = min(most, first<<failed)
	}
	return pause/2 + rand.N(pause)
}

// retryAfter reads the header of RFC 9110, section 10.2.3: seconds or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

// connectionError sorts the errors of a round trip: names that do not exist,
// certificates, and refused plain HTTP stay as they are, the rest may pass. The
// text of err is cut to a line: it may quote what a server wrote.
func connectionError(ctx context.Context, host string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	out := &sentence{kind: err, text: host + ": " + printable(err.Error())}
	if isLasting(err) {
		return out
	}
	return &transient{err: out}
}

// isLasting tells whether an error of a round trip would be the same next time.
func isLasting(err error) bool {
	var (
		dns  *net.DNSError
		cert *tls.CertificateVerificationError
		op   *net.OpError
	)
	return errors.As(err, &dns) && dns.IsNotFound ||
		errors.As(err, &cert) || errors.Is(err, errPlainHTTP) ||
		errors.As(err, &op) && op.Op == "remote error" // a TLS alert
}
